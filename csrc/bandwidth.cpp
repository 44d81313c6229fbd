// Reading memory and nothing else: the limit that the products are measured against.

#include <atomic>
#include <cstdint>

#include "pool.h"
#include "vector.h"

namespace {

constexpr int64_t kPiece = 1 << 18;

struct Reading final : Task {
  const uint8_t* from;
  int64_t bytes;
  std::atomic<int64_t> next{0};
  std::atomic<uint32_t> sum{0};

  void run() override {
    Words sums[4] = {};
    for (int64_t at; (at = next.fetch_add(kPiece)) < bytes;) {
      const int64_t end = at + kPiece < bytes ? at + kPiece : bytes;
      for (; at + 256 <= end; at += 256) {
        for (int i = 0; i < 4; ++i) sums[i] += *reinterpret_cast<const Words*>(from + at + 64 * i);
      }
    }
    const Words all = sums[0] + sums[1] + sums[2] + sums[3];
    for (int i = 0; i < 16; ++i) sum += all[i];
  }
};

}  // namespace

extern "C" {

// Reads `bytes` on `num_threads` threads; what comes back depends on all of them.
__attribute__((visibility("default"))) uint32_t chatglm_read(const void* from, int64_t bytes,
                                                             int num_threads) {
  Reading reading;
  reading.from = static_cast<const uint8_t*>(from);
  reading.bytes = bytes;
  run_in_parallel(reading, num_threads);
  return reading.sum;
}
}
