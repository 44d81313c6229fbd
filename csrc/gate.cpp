// SwiGLU for training, forth and back, each in one pass over its rows.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "levels.h"
#include "pool.h"
#include "vector.h"

extern "C" {

// One call; mirrored in chatglm/training/gate.py, field by field. Rows of x are the gate's numbers,
// then the value's. Without dy, out is silu(gate) · value; with it, out is the gradient of x.
struct ChatglmGate {
  const void* x;    // (rows, 2 · width)
  const void* dy;   // (rows, width), or null
  void* out;        // (rows, width), or (rows, 2 · width) where there is a dy
  int64_t rows, width;  // the width a multiple of 16
  int32_t kind;     // 0 float32, 1 bfloat16
  int32_t num_threads;
  int32_t level;  // 0 portable, 1 AVX2, 2 AVX-512
};
}

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kRows = 16;  // of a piece

template <int kind>
INLINE void store(void* to, int64_t at, Floats value) {
  if constexpr (kind == kFloat) {
    *reinterpret_cast<Floats*>(static_cast<float*>(to) + at) = value;
  } else {
    const Words bits = (Words)value;
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words kept = (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 64u : rounded;
    *reinterpret_cast<Shorts*>(static_cast<uint16_t*>(to) + at) =
        __builtin_convertvector(kept, Shorts);
  }
}

// 1 / (1 + e^−x), of a finite x without overflow.
INLINE Floats sigmoid(Floats x) {
  const Ints is_negative = x < 0.0f;
  const Floats e = exponential(is_negative ? x : -x);
  return (is_negative ? e : Floats{} + 1.0f) / (1.0f + e);
}

template <int kind>
INLINE void gate_rows(const ChatglmGate& a, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const int64_t narrow = row * a.width, wide = 2 * narrow;
    for (int64_t d = 0; d < a.width; d += kLanes) {
      const Floats gate = load<kind>(a.x, wide + d), value = load<kind>(a.x, wide + a.width + d);
      const Floats s = sigmoid(gate), silu = gate * s;
      if (a.dy == nullptr) {
        store<kind>(a.out, narrow + d, silu * value);
      } else {
        const Floats dy = load<kind>(a.dy, narrow + d);
        store<kind>(a.out, wide + d, dy * value * (s + silu * (1.0f - s)));
        store<kind>(a.out, wide + a.width + d, dy * silu);
      }
    }
  }
}

INLINE void gate_kind(const ChatglmGate& a, int64_t first, int64_t last) {
  if (a.kind == kBrain) {
    gate_rows<kBrain>(a, first, last);
  } else {
    gate_rows<kFloat>(a, first, last);
  }
}

// Takes rows until none is left.
struct Work final : Task {
  const ChatglmGate* call;
  void (*gate)(const ChatglmGate&, int64_t, int64_t);
  std::atomic<int64_t> next{0};

  void run() override {
    for (;;) {
      const int64_t first = next.fetch_add(kRows);
      if (first >= call->rows) return;
      gate(*call, first, std::min(first + kRows, call->rows));
    }
  }
};

}  // namespace

extern "C" {

// 0, or 1 where an argument makes no sense.
__attribute__((visibility("default"))) int chatglm_gate(const ChatglmGate* call) {
  if (call->rows < 0 || call->width <= 0 || call->width % kLanes || call->level < 0 ||
      call->level > 2 || call->kind < kFloat || call->kind > kBrain) {
    return 1;
  }
  Work work;
  work.call = call;
  work.gate = at_level<gate_kind>(call->level);
  run_in_parallel(work, call->num_threads);
  return 0;
}

}  // extern "C"
