// Whether every level of this processor gives what the portable one does; for processors that are
// emulated, where Python would take too long. Prints what differs and returns 1.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/linear.h"

namespace {

uint32_t state = 1;
uint32_t next() { return state = state * 1664525u + 1013904223u, state >> 8; }
float uniform() { return float(next() & 0xffff) / 32768.0f - 1.0f; }

int check(int kind, bool is_packed, bool has_zeros, int64_t group, int64_t rows, int64_t columns,
          int64_t m) {
  const int64_t tiles = (rows + 15) / 16, padded = (columns + 63) / 64 * 64;
  const int64_t groups = (padded + group - 1) / group;
  std::vector<uint8_t> data(size_t(tiles * 16 * padded * 4));
  std::vector<uint16_t> scales(size_t(tiles * 16 * groups));
  std::vector<uint8_t> zeros(size_t(tiles * 16 * groups));
  std::vector<float> bias(rows), x(m * columns);
  for (size_t i = 0; i < data.size() / 4; ++i) {
    const float value = uniform();
    uint32_t bits;
    static_assert(sizeof bits == sizeof value);
    __builtin_memcpy(&bits, &value, 4);
    if (kind == kBrainWeight) bits = (bits & 0xffff0000u) | bits >> 16;
    if (kind > kBrainWeight) bits = next() << 16 ^ next();
    __builtin_memcpy(&data[i * 4], &bits, 4);
  }
  for (auto& scale : scales) scale = uint16_t(0x2000 + (next() & 0x3ff));
  for (auto& zero : zeros) zero = uint8_t(next() & ((1 << linear::bits_of(kind)) - 1));
  for (auto& value : bias) value = uniform();
  for (auto& value : x) value = uniform();
  const ChatglmWeight w = {data.data(), scales.data(), has_zeros ? zeros.data() : nullptr,
                           bias.data(), rows,          columns,
                           group,       kind,          is_packed};
  void* input = std::aligned_alloc(64, size_t(linear::input_bytes(kind, m, columns) + 63) / 64 * 64);
  std::vector<float> right(m * rows), y(m * rows);
  int failed = 0;
  for (int level = 0; level <= linear::best_level(); ++level) {
    for (int64_t i = 0; i < m; ++i) {
      linear::prepare(kind, &x[size_t(i * columns)], i, m, columns, 0, columns, input, level);
    }
    std::vector<float>& out = level == 0 ? right : y;
    linear::multiply(w, input, m, out.data(), rows, 0, rows, level);
    for (int64_t i = 0; i < m * rows && level > 0; ++i) {
      // Finite or not, both must be the same; bfloat16 in tiles has halves of any size.
      if (std::fabs(y[i] - right[i]) <= 1e-3f * (1 + std::fabs(right[i]))) continue;
      std::printf("kind %d packed %d zeros %d group %ld: %ld x %ld, %ld rows, level %d: %g, not %g\n",
                  kind, is_packed, has_zeros, long(group), long(rows), long(columns), long(m), level,
                  y[i], right[i]);
      failed = 1;
      break;
    }
  }
  std::free(input);
  return failed;
}

}  // namespace

int main() {
  int failed = 0;
  for (int64_t rows : {1, 16, 21, 70}) {
    for (int64_t columns : {1, 31, 64, 130, 1100}) {
      for (int64_t m : {1, 2, 3, 4, 5, 17, 33}) {
        for (int kind = kFloatWeight; kind <= kInt6Weight; ++kind) {
          const bool is_float = kind <= kBrainWeight;
          for (int64_t group : {32, 64, 128, 1152}) {
            if (is_float && group != 32) continue;
            failed |= check(kind, true, false, group, rows, columns, m);
            failed |= check(kind, !is_float, !is_float, group, rows, columns, m);
          }
        }
        failed |= check(kFloatWeight, false, false, 32, rows, columns, m);
        failed |= check(kBrainWeight, false, false, 32, rows, columns, m);
      }
    }
  }
  std::printf("levels 0 to %d: %s\n", linear::best_level(), failed ? "differ" : "agree");
  return failed;
}
