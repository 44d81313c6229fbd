// Whole numbers of a floating-point weight, in the kernels' tiles. What is computed is what
// chatglm/quantization/linear.py says in tensors; a thread takes a tile at a time.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "levels.h"
#include "linear_kernels.h"
#include "pool.h"
#include "vector.h"

// A weight and where its tiles, scales and zero points go; without zero points it is symmetric.
struct ChatglmQuantize {
  const void* weight;  // (rows, columns)
  uint8_t* data;
  uint16_t* scales;
  uint8_t* zeros;
  int64_t rows, columns, group;
  int32_t kind;  // 0 float32, 1 bfloat16
  int32_t bits;
};

namespace {

using linear::kLanes;
using linear::kStep;

// The nearest float16, halves to even; beyond 65,504 that.
uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const float size = std::fabs(value);
  if (!(size < 65504.0f)) return sign | (size == size ? 0x7bff : 0x7e00);
  if (size < 6.103515625e-5f) return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
  bits &= 0x7fffffff;
  return sign | uint16_t((bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

INLINE Floats rounded(Floats x) { return (x + 12582912.0f) - 12582912.0f; }
INLINE Floats bounded(Floats x, float low, float high) {
  x = x < low ? Floats{} + low : x;
  return x > high ? Floats{} + high : x;
}
INLINE float sum_of(Floats x) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += x[i];
  return sum;
}

struct Grid {
  float inverse, scale, zero;
};

// What the farthest value of a group becomes: −8 first, which the other sign does not have.
constexpr Floats kWays = {-8.0f,  -6.4f,  -6.68f, -6.96f, -7.24f, -7.52f, -7.8f, -8.08f,
                          -8.36f, -8.64f, -8.92f, 6.2f,   6.5f,   6.8f,   7.1f,  7.4f};

// Of several ways to divide the farthest value, a lane each, that whose whole numbers point most
// nearly where the weights do; the scale makes their product with the weights the weights' square.
INLINE Grid search(const float* values, int64_t count, float extreme) {
  const float inverse = 1.0f / extreme;
  if (!(std::fabs(inverse) <= 3.402823466e38f)) return {0.0f, extreme / -8.0f, 8.0f};
  Floats products = {}, squares = {};
  float square = 0;
  for (int64_t j = 0; j < count; ++j) {
    const float x = values[j] * inverse;
    const Floats q = bounded(rounded(kWays * x), -8.0f, 7.0f);
    products += q * x;
    squares += q * q;
    square += x * x;
  }
  int best = 0;
  float most = 0;
  for (int way = 0; way < 16; ++way) {
    const float gain = products[way] * products[way] / squares[way];
    if (gain > most * 1.000001f) {
      most = gain;
      best = way;
    }
  }
  return {kWays[best] * inverse, extreme * (square / products[best]), 8.0f};
}

INLINE Grid grid_of(const float* values, int64_t count, int bits, bool is_symmetric) {
  Floats low = {}, high = {};
  for (int64_t at = 0; at < count; at += 16) {
    const Floats x = load<kFloat>(values, at);
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  float least = 0, most = 0;
  for (int i = 0; i < 16; ++i) {
    least = std::min(least, float(low[i]));
    most = std::max(most, float(high[i]));
  }
  if (is_symmetric && bits == 4) return search(values, count, -least > most ? least : most);
  const float middle = float(linear::middle_of(bits)), top = 2 * middle - 1;
  Grid grid = {0, 0, middle};
  grid.scale = is_symmetric ? std::max(-least, most) / (middle - 1) : (most - least) / top;
  const float kept = linear::half_to_float(to_half(grid.scale));
  grid.inverse = kept == 0 ? 0.0f : 1.0f / kept;
  if (!is_symmetric) {
    grid.zero = std::max(0.0f, std::min(top, std::nearbyintf(-least * grid.inverse)));
  }
  return grid;
}

// What a thread needs between a tile and the next.
struct Scratch {
  std::vector<float> values;
  std::vector<uint8_t> whole;
};

// Puts four numbers of few bits each into four bytes, beside what is there unless they are first.
INLINE void join(uint8_t* to, uint32_t four, int64_t shift, bool is_first) {
  uint32_t there = 0;
  if (!is_first) std::memcpy(&there, to, 4);
  there |= four << shift;
  std::memcpy(to, &there, 4);
}

INLINE void one_tile(const ChatglmQuantize& c, int64_t tile, Scratch& scratch) {
  const int64_t padded = linear::up_to(c.columns, linear::kBlock);
  const int64_t groups = (padded + c.group - 1) / c.group;
  uint8_t* whole = scratch.whole.data();  // (16, padded)
  std::fill(scratch.whole.begin(), scratch.whole.end(), 0);
  const int64_t first = tile * groups * kLanes, count = groups * kLanes;
  std::fill_n(c.scales + first, count, uint16_t(0));  // of rows that fill a tile up, too
  if (c.zeros) std::fill_n(c.zeros + first, count, uint8_t(0));
  for (int64_t lane = 0; lane < std::min(kLanes, c.rows - tile * kLanes); ++lane) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = group * c.group, width = std::min(c.group, padded - begin);
      const int64_t there = std::clamp<int64_t>(c.columns - begin, 0, width);
      const int64_t from = (tile * kLanes + lane) * c.columns + begin;
      float* values = scratch.values.data();
      std::fill(values, values + width, 0.0f);
      if (c.kind == kFloat) {
        std::memcpy(values, static_cast<const float*>(c.weight) + from, size_t(there) * 4);
      } else {
        const uint16_t* halves = static_cast<const uint16_t*>(c.weight) + from;
        for (int64_t j = 0; j < there; ++j) values[j] = from_brain(halves[j]);
      }
      const Grid grid = grid_of(values, width, c.bits, c.zeros == nullptr);
      const int64_t at = (tile * groups + group) * kLanes + lane;
      c.scales[at] = to_half(grid.scale);
      if (c.zeros) c.zeros[at] = uint8_t(grid.zero);
      const float top = float(2 * linear::middle_of(c.bits) - 1);
      for (int64_t j = 0; j < width; j += 16) {
        const Floats q = rounded(load<kFloat>(values, j) * grid.inverse) + grid.zero;
        const Ints all = __builtin_convertvector(bounded(q, 0.0f, top), Ints);
        // Step by step: compilers take the numbers apart to go further at once.
        const Bytes bytes = __builtin_convertvector(__builtin_convertvector(all, Halves), Bytes);
        std::memcpy(whole + lane * padded + begin + j, &bytes, 16);
      }
    }
  }
  uint8_t* out = c.data + tile * kLanes * padded * c.bits / 8;
  for (int64_t step = 0; step < padded / 4; ++step) {
    uint8_t* group = out + step / 8 * c.bits * kStep;
    const int64_t at = step % 8;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      uint32_t four;
      std::memcpy(&four, whole + lane * padded + step * 4, 4);
      if (c.bits == 8) {
        join(group + at * kStep + lane * 4, four, 0, true);
        continue;
      }
      join(group + at % 4 * kStep + lane * 4, four & 0x0f0f0f0f, at / 4 * 4, at < 4);
      if (c.bits == 4) continue;
      const uint32_t upper = four >> 4 & 0x03030303;
      join(group + (4 + at / 4) * kStep + lane * 4, upper, at % 4 * 2, at % 4 == 0);
    }
  }
}

struct Work final : Task {
  const ChatglmQuantize* call;
  void (*one)(const ChatglmQuantize&, int64_t, Scratch&);
  std::atomic<int64_t> next{0};

  void run() override {
    const int64_t padded = linear::up_to(call->columns, linear::kBlock);
    Scratch scratch;
    scratch.values.resize(size_t(std::min(call->group, padded)));
    scratch.whole.resize(size_t(kLanes * padded));
    const int64_t tiles = (call->rows + kLanes - 1) / kLanes;
    for (int64_t tile; (tile = next.fetch_add(1)) < tiles;) one(*call, tile, scratch);
  }
};

}  // namespace

extern "C" {

// 0, or 1 where an argument is out of range.
__attribute__((visibility("default"))) int chatglm_quantize(const ChatglmQuantize* call,
                                                            int num_threads) {
  const ChatglmQuantize& c = *call;
  if (c.rows < 0 || c.columns < 1 || c.group < 32 || c.group % 32 || num_threads < 1 ||
      (c.bits != 4 && c.bits != 6 && c.bits != 8) || (c.kind != kFloat && c.kind != kBrain)) {
    return 1;
  }
  Work work;
  work.call = call;
  work.one = at_level<one_tile>(linear::best_level());
  run_in_parallel(work, num_threads);
  return 0;
}
}
