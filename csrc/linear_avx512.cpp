// The products by AVX-512: a register holds a step of a tile, 4 bytes of 16 rows of W, and meets
// 4 bytes of x in all its lanes, so that a lane sums up one result and nothing is left to add across.

#if defined(__x86_64__)

#include <immintrin.h>

#include "linear_kernels.h"

#define AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,fma")))
#define AVX512_INLINE AVX512 __attribute__((always_inline)) inline

namespace linear {

namespace {

constexpr int64_t kAhead = 2048;  // bytes of W that are asked for before they are needed

AVX512_INLINE __m512 load_scales(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

AVX512_INLINE int32_t word(const uint8_t* from) {
  int32_t bits;
  std::memcpy(&bits, from, 4);
  return bits;
}

AVX512_INLINE void store(const ChatglmWeight& w, int64_t tile, __m512 total, float* y) {
  const int64_t r = tile * kLanes, left = w.rows - r;
  const __mmask16 there = left >= kLanes ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
  if (w.bias) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(there, w.bias + r));
  _mm512_mask_storeu_ps(y + r, there, total);
}

// The steps of 32 columns.
template <int kBits>
AVX512_INLINE void unpack(const uint8_t* data, __m512i* steps) {
  if constexpr (kBits == 8) {
    for (int j = 0; j < 8; ++j) steps[j] = _mm512_loadu_si512(data + j * kStep);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_loadu_si512(data + j * kStep);
      steps[j] = _mm512_and_si512(both, low);
      steps[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
  }
}

template <int kBits, bool kZeros, int M>
AVX512 void whole_tile(const ChatglmWeight& w, int64_t tile, const Part& part) {
  const int64_t groups = up_to(w.columns, kBlock) / kGroup, rows = part.rows;
  const int64_t shared = w.group / kGroup;
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * groups * kBits * kStep;
  const uint16_t* scales = w.scales + tile * num_scales(w) * kLanes;
  const uint8_t* zeros = kZeros ? w.zeros + tile * num_scales(w) * kLanes : nullptr;
  const uint8_t* x = part.panel + part.first * kGroup;
  const int64_t to_scales = rows * kGroup - part.first * (kGroup - 4), unit = rows * (kGroup + 8);
  __m512 total[M];
  for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups;) {
    const __m512 w_scale = load_scales(scales);
    scales += kLanes;
    __m512i zero = _mm512_setzero_si512();
    if constexpr (kZeros) {
      zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
      zeros += kLanes;
    }
    const int64_t end = std::min(g + shared, groups);
    for (; g < end; ++g) {
      __m512i steps[8];
      unpack<kBits>(data, steps);
      for (int j = 0; j < kBits; ++j) {
        _mm_prefetch(reinterpret_cast<const char*>(data + kAhead + j * kStep), _MM_HINT_T0);
      }
      data += kBits * kStep;
      const uint8_t* x_scale = x + to_scales;
      for (int i = 0; i < M; ++i) {
        __m512i sum = _mm512_set1_epi32(word(x_scale + rows * 4 + i * 4));
        if constexpr (kZeros) {
          sum = _mm512_srai_epi32(_mm512_mullo_epi32(sum, zero), kBits == 8 ? 7 : 3);
        }
        for (int j = 0; j < 8; ++j) {
          const __m512i four = _mm512_set1_epi32(word(x + i * kGroup + j * 4));
          sum = _mm512_dpbusd_epi32(sum, steps[j], four);
        }
        float scale;
        std::memcpy(&scale, x_scale + i * 4, 4);
        const __m512 both = _mm512_mul_ps(w_scale, _mm512_set1_ps(scale));
        total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, total[i]);
      }
      x += unit;
    }
  }
  for (int i = 0; i < M; ++i) store(w, tile, total[i], part.y + i * part.ldy);
}

template <int kBits, bool kZeros, int M = kPanel>
AVX512 void whole_tiles(const ChatglmWeight& w, int64_t tile, int64_t tiles, const Part& part) {
  if (part.count == M) {
    for (int64_t t = tile; t < tile + tiles; ++t) whole_tile<kBits, kZeros, M>(w, t, part);
  } else if constexpr (M > 1) {
    whole_tiles<kBits, kZeros, M - 1>(w, tile, tiles, part);
  }
}

void whole(const ChatglmWeight& w, int64_t tile, int64_t tiles, const Part& part) {
  if (w.kind == kInt8Weight) {
    (w.zeros ? whole_tiles<8, true> : whole_tiles<8, false>)(w, tile, tiles, part);
  } else {
    (w.zeros ? whole_tiles<4, true> : whole_tiles<4, false>)(w, tile, tiles, part);
  }
}

// As quantize of linear_portable.cpp.
AVX512 void quantize(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
                     int64_t rows) {
  const __mmask32 there = count >= 32 ? ~0u : (1u << count) - 1;
  const __m512 a = _mm512_maskz_loadu_ps(__mmask16(there), x);
  const __m512 b = _mm512_maskz_loadu_ps(__mmask16(there >> 16), x + 16);
  const __m512 most = _mm512_set1_ps(3.402823466e38f);
  const __m512 a_size = _mm512_abs_ps(a), b_size = _mm512_abs_ps(b);
  const bool is_finite = _mm512_cmp_ps_mask(a_size, most, _CMP_LE_OQ) == 0xffff &&
                         _mm512_cmp_ps_mask(b_size, most, _CMP_LE_OQ) == 0xffff;
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(a_size, b_size));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  float scale = __builtin_nanf("");
  int32_t sum = 0;
  __m128i first = _mm_setzero_si128(), second = first;
  if (is_finite) {
    scale = largest / 127.0f;
    if (inverse <= 3.402823466e38f) {
      const __m512 by = _mm512_set1_ps(inverse);
      const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(a, by));
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(b, by));
      first = _mm512_cvtsepi32_epi8(p);
      second = _mm512_cvtsepi32_epi8(q);
      sum = correction * _mm512_reduce_add_epi32(_mm512_add_epi32(p, q));
    }
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(unit + row * kGroup), first);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(unit + row * kGroup + 16), second);
  std::memcpy(unit + rows * kGroup + row * 4, &scale, 4);
  std::memcpy(unit + rows * (kGroup + 4) + row * 4, &sum, 4);
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = {quantize, whole,  portable_kernels().tiles,
                                  portable_kernels().rows, kPanel, kPanel, kPanel};
  return kernels;
}

}  // namespace linear

#endif
