// Sixteen numbers at once, in the compiler's own vectors: one register of AVX-512, two of AVX2.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef int16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t Shorts __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

enum Kind { kFloat = 0, kBrain = 1, kByte = 2 };

INLINE float from_brain(uint16_t half) {
  const uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

INLINE uint16_t to_brain(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

template <int kind>
INLINE Floats load(const void* from, int64_t at) {
  if constexpr (kind == kFloat) {
    return *reinterpret_cast<const Floats*>(static_cast<const float*>(from) + at);
  } else if constexpr (kind == kBrain) {
    const Shorts half = *reinterpret_cast<const Shorts*>(static_cast<const uint16_t*>(from) + at);
    return (Floats)(__builtin_convertvector(half, Words) << 16);
  } else {
    const Bytes whole = *reinterpret_cast<const Bytes*>(static_cast<const int8_t*>(from) + at);
    // Step by step: compilers take single bytes apart to go further at once.
    const Halves half = __builtin_convertvector(whole, Halves);
    return __builtin_convertvector(__builtin_convertvector(half, Ints), Floats);
  }
}

// e^x for x ≤ 0; 0 below −87 (Cephes' expf: range reduction by ln 2 in two parts, degree 5).
INLINE Floats exponential(Floats x) {
  const Ints tiny = x < -87.0f;
  x = tiny ? Floats{} : x;
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  const Floats result = p * (Floats)power;
  return tiny ? Floats{} : result;
}

}  // namespace
