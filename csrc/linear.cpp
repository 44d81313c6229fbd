// Products with weights of every kind: how inputs are prepared and which kernel multiplies them.

#include "linear.h"

#include <atomic>

#include "linear_kernels.h"
#include "pool.h"
#include "vector.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace linear {

namespace {

const Kernels& kernels_of(int level) {
#if defined(__x86_64__)
  if (level == 2) return avx512_kernels();
  if (level == 1) return avx2_kernels();
#elif defined(__aarch64__)
  if (level == 1) return neon_kernels();
#endif
  (void)level;
  return portable_kernels();
}

// Bytes in front of a panel: those of all rows before it.
int64_t row_bytes(int kind, int64_t columns) {
  return up_to(columns, kBlock) / unit_columns(kind) * unit_bytes(kind);
}

}  // namespace

int best_level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return 2;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return 1;
  }
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return 1;
#elif defined(__aarch64__) && defined(__APPLE__)
  return 1;  // every one of these has the dot product
#endif
  return 0;
}

int64_t input_bytes(int kind, int64_t m, int64_t columns) { return m * row_bytes(kind, columns); }

void prepare(int kind, const float* row, int64_t i, int64_t m, int64_t columns, int64_t begin,
             int64_t end, void* input, int level) {
  const int64_t panel = i / kPanel * kPanel, rows = std::min(kPanel, m - panel), at = i - panel;
  uint8_t* units = static_cast<uint8_t*>(input) + panel * row_bytes(kind, columns);
  const int64_t width = unit_columns(kind), bytes = unit_bytes(kind) * rows;
  const Kernels& kernels = kernels_of(level);
  for (int64_t c = begin; c < up_to(end, kBlock); c += width) {
    uint8_t* unit = units + c / width * bytes;
    const int64_t count = std::clamp<int64_t>(end - c, 0, width);
    if (is_whole(kind)) {
      kernels.quantize(row + c, count, -middle_of(bits_of(kind)), unit, at, rows);
    } else if (kind == kFloatWeight) {
      std::memcpy(unit + at * kStep, row + c, size_t(count) * 4);
      std::memset(unit + at * kStep + count * 4, 0, size_t(kStep - count * 4));
    } else {
      uint16_t* to = reinterpret_cast<uint16_t*>(unit + at * kStep);
      for (int64_t j = 0; j < width; ++j) to[j] = j < count ? to_brain(row[c + j]) : 0;
    }
  }
}

namespace {

// Calls a kernel with all rows of an input, `most` at a time; `part` says the rest.
template <typename Kernel>
void each_part(const ChatglmWeight& w, const void* input, int64_t m, int64_t most, Part part,
               Kernel kernel) {
  float* y = part.y;
  for (int64_t panel = 0; panel < m; panel += kPanel) {
    part.panel = static_cast<const uint8_t*>(input) + panel * row_bytes(w.kind, w.columns);
    part.rows = std::min(kPanel, m - panel);
    for (part.first = 0; part.first < part.rows; part.first += most) {
      part.count = std::min(most, part.rows - part.first);
      part.y = y + (panel + part.first) * part.ldy;
      kernel(part);
    }
  }
}

// Units [begin, end) of a tile of rows that are not packed.
void pack_tile(const ChatglmWeight& w, int64_t tile, int64_t begin, int64_t end, uint8_t* out) {
  const int64_t stride = w.columns * column_bytes(w.kind);
  const int64_t rows = std::min(kLanes, w.rows - tile * kLanes);
  const int64_t from = begin * kStep, there = std::min(end * kStep, stride) - from;
  std::memset(out, 0, size_t((end - begin) * kStep * kLanes));
  for (int64_t lane = 0; lane < rows; ++lane) {
    const uint8_t* row = static_cast<const uint8_t*>(w.data) + (tile * kLanes + lane) * stride + from;
    int64_t at = 0;
    for (; at + 4 <= there; at += 4) std::memcpy(out + at * kLanes + lane * 4, row + at, 4);
    if (at < there) std::memcpy(out + at * kLanes + lane * 4, row + at, size_t(there - at));
  }
}

// Float kinds, a few tiles and columns at a time (16 KiB, and 8 of a panel), that they stay in the
// cache for all rows of x; what is not packed is packed on the way.
void multiply_tiles(const ChatglmWeight& w, const void* input, int64_t m, Part part, int64_t begin,
                    int64_t end, const Kernels& kernels) {
  constexpr int64_t kTiles = 2, kUnits = 8;
  alignas(64) uint8_t packed[kTiles * kUnits * kStep * kLanes];
  const int64_t units = num_units(w);
  const bool is_large = m > kPanel;
  const int64_t tiles_at_once = is_large ? kTiles : end - begin;
  for (int64_t tile = begin; tile < end; tile += tiles_at_once) {
    const int64_t count = std::min(tiles_at_once, end - tile);
    for (part.begin = 0; part.begin < units; part.begin = part.end) {
      part.end = is_large ? std::min(part.begin + kUnits, units) : units;
      part.stride = w.is_packed ? tile_bytes(w) : (part.end - part.begin) * kStep * kLanes;
      part.data = packed;
      if (w.is_packed) {
        part.data = static_cast<const uint8_t*>(w.data) + tile * part.stride +
                    part.begin * kStep * kLanes;
      }
      for (int64_t t = 0; t < count && !w.is_packed; ++t) {
        pack_tile(w, tile + t, part.begin, part.end, packed + t * part.stride);
      }
      each_part(w, input, m, kernels.most_tiles, part,
                [&](const Part& p) { kernels.tiles(w, tile, count, p); });
    }
  }
}

}  // namespace

void multiply(const ChatglmWeight& w, const void* input, int64_t m, float* y, int64_t ldy,
              int64_t begin, int64_t end, int level) {
  const Kernels& kernels = kernels_of(level);
  const int64_t tile = begin / kLanes, last = (end + kLanes - 1) / kLanes;
  Part part = {};
  part.y = y;
  part.ldy = ldy;
  if (is_whole(w.kind)) {
    each_part(w, input, m, kernels.most_whole, part,
              [&](const Part& p) { kernels.whole(w, tile, last - tile, p); });
  } else if (w.is_packed || m > kPanel) {
    multiply_tiles(w, input, m, part, tile, last, kernels);
  } else {
    each_part(w, input, m, kernels.most_rows, part,
              [&](const Part& p) { kernels.rows(w, begin, end, p); });
  }
}

namespace {

constexpr int64_t kPiece = 64;  // rows of W that a thread takes at a time, at most

// Prepares rows of x, then multiplies rows of W; a thread that is held up takes fewer.
struct Work final : Task {
  const ChatglmWeight* weight;
  const float* x;
  float* y;
  void* input;
  int64_t m, piece;
  int level;
  bool prepares = true;
  std::atomic<int64_t> next{0};

  void run() override {
    const ChatglmWeight& w = *weight;
    const int64_t count = prepares ? m : w.rows, step = prepares ? 1 : piece;
    for (int64_t at; (at = next.fetch_add(step)) < count;) {
      if (prepares) {
        prepare(w.kind, x + at * w.columns, at, m, w.columns, 0, w.columns, input, level);
      } else {
        multiply(w, input, m, y, w.rows, at, std::min(at + piece, w.rows), level);
      }
    }
  }
};

bool is_wrong(const ChatglmWeight& w) {
  return w.rows < 0 || w.columns < 1 || !is_kind(w.kind) ||
         (is_whole(w.kind) && (w.group < kGroup || w.group % kGroup || !w.is_packed || !w.scales));
}

}  // namespace

}  // namespace linear

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// The best instruction set of this processor that the kernels know: 0 portable, 1 AVX2 or
// NEON, 2 AVX-512.
EXPORT int chatglm_best_level() { return linear::best_level(); }

// Scratch bytes that chatglm_linear needs for m rows.
EXPORT int64_t chatglm_scratch_bytes(int kind, int64_t m, int64_t columns) {
  return linear::input_bytes(kind, m, columns);
}

// y (m, rows) = x (m, columns) · Wᵀ + b. `scratch` is aligned to 64 bytes; `level` is at most the
// best one. 0, or 1 where an argument is out of range.
EXPORT int chatglm_linear(const ChatglmWeight* weight, const float* x, int64_t m, float* y,
                          void* scratch, int num_threads, int level) {
  if (linear::is_wrong(*weight) || m < 0 || level < 0 || level > linear::best_level() ||
      num_threads < 1) {
    return 1;
  }
  linear::Work work;
  work.weight = weight;
  work.x = x;
  work.y = y;
  work.input = scratch;
  work.m = m;
  work.level = level;
  // A call of a few microseconds is not worth waking anybody.
  const int64_t products = m * weight->rows * weight->columns;
  const int threads = products < 200000 ? 1 : num_threads;
  const int64_t share = linear::up_to(weight->rows / (4 * threads) + 1, linear::kLanes);
  work.piece = std::min(linear::kPiece, share);
  run_in_parallel(work, int(std::min<int64_t>(m < 8 ? 1 : threads, m)));
  work.prepares = false;
  work.next = 0;
  run_in_parallel(work, threads);
  return 0;
}

// A row of W in float32.
EXPORT int chatglm_row(const ChatglmWeight* weight, int64_t r, float* out) {
  if (linear::is_wrong(*weight) || r < 0 || r >= weight->rows) return 1;
  linear::read_row(*weight, r, out);
  return 0;
}

}  // extern "C"
