// What stands between the products of a layer: the norm and the gate, each in one pass over its rows.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.h"

namespace {

constexpr int64_t kLanes = 16;

// `count` numbers from `at` on, 16 at most; the rest of the register is 0.
template <int kind>
INLINE Floats load_some(const void* from, int64_t at, int64_t count) {
  if (count == kLanes) return load<kind>(from, at);
  Floats out = {};
  for (int64_t i = 0; i < count; ++i) {
    out[i] = kind == kFloat ? static_cast<const float*>(from)[at + i]
                            : from_brain(static_cast<const uint16_t*>(from)[at + i]);
  }
  return out;
}

template <int kind>
INLINE void store_some(void* to, int64_t at, int64_t count, Floats value) {
  if constexpr (kind == kFloat) {
    float* out = static_cast<float*>(to) + at;
    if (count == kLanes) {
      *reinterpret_cast<Floats*>(out) = value;
    } else {
      for (int64_t i = 0; i < count; ++i) out[i] = value[i];
    }
  } else {
    uint16_t* out = static_cast<uint16_t*>(to) + at;
    if (count == kLanes) {
      const Words bits = (Words)value;
      const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
      const Words kept = (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 64u : rounded;
      *reinterpret_cast<Shorts*>(out) = __builtin_convertvector(kept, Shorts);
    } else {
      for (int64_t i = 0; i < count; ++i) out[i] = to_brain(value[i]);
    }
  }
}

// out = x / sqrt(mean(x²) + eps) · weight, row by row.
template <int kind>
INLINE void norm_rows(const void* x, const void* weight, void* out, int64_t rows, int64_t width,
                      float eps) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t base = row * width;
    Floats squares = {};
    for (int64_t d = 0; d < width; d += kLanes) {
      const Floats part = load_some<kind>(x, base + d, std::min(kLanes, width - d));
      squares += part * part;
    }
    float total = 0;
    for (int64_t i = 0; i < kLanes; ++i) total += squares[i];
    const float scale = 1.0f / std::sqrt(total / float(width) + eps);
    for (int64_t d = 0; d < width; d += kLanes) {
      const int64_t count = std::min(kLanes, width - d);
      const Floats part = load_some<kind>(x, base + d, count) * scale;
      store_some<kind>(out, base + d, count, part * load_some<kind>(weight, d, count));
    }
  }
}

// out (rows, width) = silu(gate) · value of rows (gate, value) of twice the width.
template <int kind>
INLINE void gate_rows(const void* x, void* out, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t d = 0; d < width; d += kLanes) {
      const int64_t count = std::min(kLanes, width - d), at = row * 2 * width + d;
      const Floats gate = load_some<kind>(x, at, count);
      const Floats value = load_some<kind>(x, at + width, count);
      const Floats size = gate < 0.0f ? gate : -gate;
      const Floats e = exponential(size);
      const Floats share = (gate < 0.0f ? e : Floats{} + 1.0f) / (e + 1.0f);
      store_some<kind>(out, row * width + d, count, gate * share * value);
    }
  }
}

#define VERSION(name, attribute)                                                                 \
  attribute void norm_##name(int kind, const void* x, const void* weight, void* out,             \
                             int64_t rows, int64_t width, float eps) {                           \
    if (kind == kFloat) {                                                                        \
      norm_rows<kFloat>(x, weight, out, rows, width, eps);                                       \
    } else {                                                                                     \
      norm_rows<kBrain>(x, weight, out, rows, width, eps);                                       \
    }                                                                                            \
  }                                                                                              \
  attribute void gate_##name(int kind, const void* x, void* out, int64_t rows, int64_t width) {  \
    if (kind == kFloat) {                                                                        \
      gate_rows<kFloat>(x, out, rows, width);                                                    \
    } else {                                                                                     \
      gate_rows<kBrain>(x, out, rows, width);                                                    \
    }                                                                                            \
  }

VERSION(portable, )
#if defined(__x86_64__)
VERSION(avx2, __attribute__((target("avx2,fma"))))
VERSION(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
#endif

}  // namespace

extern "C" {

// RMSNorm of rows; kind: 0 float32, 1 bfloat16; level as of chatglm_best_level.
__attribute__((visibility("default"))) int chatglm_norm(const void* x, const void* weight,
                                                        void* out, int64_t rows, int64_t width,
                                                        float eps, int kind, int level) {
  if (rows < 0 || width < 1 || kind < kFloat || kind > kBrain) return 1;
#if defined(__x86_64__)
  if (level == 2) return norm_avx512(kind, x, weight, out, rows, width, eps), 0;
  if (level == 1) return norm_avx2(kind, x, weight, out, rows, width, eps), 0;
#endif
  (void)level;
  norm_portable(kind, x, weight, out, rows, width, eps);
  return 0;
}

// SwiGLU's gate over rows of twice the width.
__attribute__((visibility("default"))) int chatglm_gate(const void* x, void* out, int64_t rows,
                                                        int64_t width, int kind, int level) {
  if (rows < 0 || width < 1 || kind < kFloat || kind > kBrain) return 1;
#if defined(__x86_64__)
  if (level == 2) return gate_avx512(kind, x, out, rows, width), 0;
  if (level == 1) return gate_avx2(kind, x, out, rows, width), 0;
#endif
  (void)level;
  gate_portable(kind, x, out, rows, width);
  return 0;
}
}
