// Reading memory and nothing else: the limit that the products are measured against.

#include <atomic>
#include <cstdint>

#include "levels.h"
#include "linear.h"
#include "pool.h"
#include "vector.h"

namespace {

constexpr int64_t kPiece = 1 << 18, kAhead = 8192;

INLINE uint32_t sum_up(const uint8_t* from, int64_t bytes) {
  Words sums[4] = {};
  for (const uint8_t* end = from + bytes; from < end; from += 256) {
    for (int i = 0; i < 4; ++i) {
      __builtin_prefetch(from + kAhead + 64 * i);
      sums[i] += *reinterpret_cast<const Words*>(from + 64 * i);
    }
  }
  const Words all = sums[0] + sums[1] + sums[2] + sums[3];
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += all[i];
  return sum;
}

struct Reading final : Task {
  const uint8_t* from;
  int64_t bytes;
  uint32_t (*part)(const uint8_t*, int64_t);
  std::atomic<int64_t> next{0};
  std::atomic<uint32_t> sum{0};

  void run() override {
    for (int64_t at; (at = next.fetch_add(kPiece)) < bytes;) {
      const int64_t left = bytes - at;
      sum += part(from + at, (left < kPiece ? left : kPiece) & ~int64_t(255));
    }
  }
};

}  // namespace

extern "C" {

// Reads `bytes`, a multiple of 256, on `num_threads` threads; what comes back depends on them all.
__attribute__((visibility("default"))) uint32_t chatglm_read(const void* from, int64_t bytes,
                                                             int num_threads) {
  Reading reading;
  reading.from = static_cast<const uint8_t*>(from);
  reading.bytes = bytes;
  reading.part = at_level<sum_up>(linear::best_level());
  run_in_parallel(reading, num_threads);
  return reading.sum;
}
}
