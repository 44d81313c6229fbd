// The products by AVX-512: a register holds a step of a tile, 4 bytes of 16 rows of W, and meets
// 4 bytes of x in all its lanes, so that a lane sums up one result and nothing is left to add across.

#if defined(__x86_64__)

#include <immintrin.h>

#include "linear_kernels.h"

#define AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,fma")))
#define FLOAT_KERNEL \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,f16c,fma")))
#define FLOAT_INLINE FLOAT_KERNEL __attribute__((always_inline)) inline
#define AVX512_INLINE AVX512 __attribute__((always_inline)) inline

namespace linear {

namespace {

// Bytes that are asked for before they are needed: of the tiles of float kinds, several of which are
// read at once, and of whole numbers and their scales.
constexpr int64_t kAhead = 2048, kTileAhead = 8192, kScalesAhead = 1024;

AVX512_INLINE __m512 load_scales(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

AVX512_INLINE int32_t word(const uint8_t* from) {
  int32_t bits;
  std::memcpy(&bits, from, 4);
  return bits;
}

AVX512_INLINE void store(const ChatglmWeight& w, int64_t tile, __m512 total, float* y,
                         bool adds_bias) {
  const int64_t r = tile * kLanes, left = w.rows - r;
  const __mmask16 there = left >= kLanes ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
  if (adds_bias) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(there, w.bias + r));
  _mm512_mask_storeu_ps(y + r, there, total);
}

// The steps of 32 columns.
template <int kBits>
AVX512_INLINE void unpack(const uint8_t* data, __m512i* steps) {
  if constexpr (kBits == 8) {
    UNROLL for (int j = 0; j < 8; ++j) steps[j] = _mm512_loadu_si512(data + j * kStep);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    UNROLL for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_loadu_si512(data + j * kStep);
      steps[j] = _mm512_and_si512(both, low);
      steps[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    if constexpr (kBits == 6) {
      const __m512i high = _mm512_set1_epi8(48);
      UNROLL for (int j = 0; j < 2; ++j) {
        const __m512i four = _mm512_loadu_si512(data + (4 + j) * kStep);
        const __m512i upper[] = {_mm512_slli_epi16(four, 4), _mm512_slli_epi16(four, 2), four,
                                 _mm512_srli_epi16(four, 2)};
        UNROLL for (int i = 0; i < 4; ++i) {  // step | (upper & high)
          steps[4 * j + i] = _mm512_ternarylogic_epi32(steps[4 * j + i], upper[i], high, 0xf8);
        }
      }
    }
  }
}

// One tile after the other, which is one stream from memory and a thin one of scales beside it.
template <int kBits, bool kZeros, int M>
AVX512 void whole_tile(const ChatglmWeight& w, int64_t tile, const Part& part) {
  const int64_t groups = up_to(w.columns, kBlock) / kGroup, rows = part.rows;
  const int64_t shared = w.group / kGroup, at = tile * num_scales(w) * kLanes;
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * groups * kBits * kStep;
  const uint16_t* scales = w.scales + at;
  const uint8_t* zeros = kZeros ? w.zeros + at : nullptr;
  const uint8_t* x = part.panel + part.first * kGroup;
  const int64_t to_scales = rows * kGroup - part.first * (kGroup - 4), unit = rows * (kGroup + 8);
  __m512 total[M];
  UNROLL for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups;) {
    const __m512 w_scale = load_scales(scales);
    _mm_prefetch(reinterpret_cast<const char*>(scales) + kScalesAhead, _MM_HINT_T0);
    __m512i zero;
    if constexpr (kZeros) {
      zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
      zeros += kLanes;
    }
    scales += kLanes;
    const int64_t end = std::min(g + shared, groups);
    for (; g < end; ++g) {
      const uint8_t* x_scale = x + to_scales;
      __m512i steps[8];
      unpack<kBits>(data, steps);
      UNROLL for (int j = 0; j < kBits; ++j) {
        _mm_prefetch(reinterpret_cast<const char*>(data + kTileAhead + j * kStep), _MM_HINT_T0);
      }
      UNROLL for (int i = 0; i < M; ++i) {
        __m512i sum = _mm512_set1_epi32(word(x_scale + rows * 4 + i * 4));
        if constexpr (kZeros) {
          sum = _mm512_srai_epi32(_mm512_mullo_epi32(sum, zero), kBits - 1);
        }
        UNROLL for (int j = 0; j < 8; ++j) {
          const __m512i four = _mm512_set1_epi32(word(x + i * kGroup + j * 4));
          sum = _mm512_dpbusd_epi32(sum, steps[j], four);
        }
        float scale;
        std::memcpy(&scale, x_scale + i * 4, 4);
        const __m512 both = _mm512_mul_ps(w_scale, _mm512_set1_ps(scale));
        total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, total[i]);
      }
      data += kBits * kStep;
      x += unit;
    }
  }
  UNROLL for (int i = 0; i < M; ++i) {
    store(w, tile, total[i], part.y + i * part.ldy, w.bias != nullptr);
  }
}

template <int kBits, bool kZeros, int M = kPanel>
AVX512 void whole_tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  if (part.count == M) {
    for (; count > 0; --count) whole_tile<kBits, kZeros, M>(w, tile++, part);
  } else if constexpr (M > 1) {
    whole_tiles<kBits, kZeros, M - 1>(w, tile, count, part);
  }
}

void whole(const ChatglmWeight& w, int64_t tile, int64_t tiles, const Part& part) {
  if (w.kind == kInt8Weight) {
    (w.zeros ? whole_tiles<8, true> : whole_tiles<8, false>)(w, tile, tiles, part);
  } else if (w.kind == kInt6Weight) {
    (w.zeros ? whole_tiles<6, true> : whole_tiles<6, false>)(w, tile, tiles, part);
  } else {
    (w.zeros ? whole_tiles<4, true> : whole_tiles<4, false>)(w, tile, tiles, part);
  }
}

// As quantize_group.
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

// The products of 64 bytes of a float kind. BF16 instructions are only in what is called where the
// processor has them: compilers do not use them by themselves.
struct FloatProduct {
  FLOAT_INLINE static __m512 add(__m512 total, __m512i w, __m512i x) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), total);
  }
};

struct BrainProduct {
  FLOAT_INLINE static __m512 add(__m512 total, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(total, (__m512bh)w, (__m512bh)x);
  }
};

struct WidenedProduct {
  FLOAT_INLINE static __m512 add(__m512 total, __m512i w, __m512i x) {
    const __m512i high = _mm512_set1_epi32(int32_t(0xffff0000));
    total = FloatProduct::add(total, _mm512_slli_epi32(w, 16), _mm512_slli_epi32(x, 16));
    return FloatProduct::add(total, _mm512_and_si512(w, high), _mm512_and_si512(x, high));
  }
};

template <typename Product, int T, int M>
FLOAT_KERNEL void some_tiles(const ChatglmWeight& w, int64_t tile, const Part& part) {
  const uint8_t* x = part.panel + part.begin * part.rows * kStep + part.first * kStep;
  __m512 total[T][M];
  UNROLL for (int t = 0; t < T; ++t) {
    UNROLL for (int i = 0; i < M; ++i) {
      const float* y = part.y + i * part.ldy + (tile + t) * kLanes;
      const int64_t left = std::min(kLanes, w.rows - (tile + t) * kLanes);
      const __mmask16 there = part.begin > 0 ? __mmask16((1u << left) - 1) : __mmask16(0);
      total[t][i] = _mm512_maskz_loadu_ps(there, y);
    }
  }
  const uint8_t* data = part.data;
  constexpr int64_t ahead = M == 1 ? 2 * kAhead : kAhead;
  for (int64_t u = part.begin; u < part.end; ++u) {
    for (int j = 0; j < 16; ++j) {
      __m512i step[T];
      UNROLL for (int t = 0; t < T; ++t) {
        step[t] = _mm512_loadu_si512(data + t * part.stride);
        _mm_prefetch(reinterpret_cast<const char*>(data + t * part.stride + ahead), _MM_HINT_T0);
      }
      data += kStep;
      UNROLL for (int i = 0; i < M; ++i) {
        const __m512i four = _mm512_set1_epi32(word(x + i * kStep + j * 4));
        UNROLL for (int t = 0; t < T; ++t) total[t][i] = Product::add(total[t][i], step[t], four);
      }
    }
    x += part.rows * kStep;
  }
  const bool is_last = part.end == num_units(w);
  UNROLL for (int t = 0; t < T; ++t) {
    UNROLL for (int i = 0; i < M; ++i) {
      store(w, tile + t, total[t][i], part.y + i * part.ldy, is_last && w.bias);
    }
  }
}

template <typename Product, int M>
FLOAT_KERNEL void all_tiles(const ChatglmWeight& w, int64_t tile, int64_t count, Part part) {
  // One row waits for memory alone, which gives more to fewer streams.
  constexpr int T = M > 1 && M <= 4 ? 4 : 2;
  for (; count >= T; count -= T, tile += T, part.data += T * part.stride) {
    some_tiles<Product, T, M>(w, tile, part);
  }
  for (; count > 0; --count, ++tile, part.data += part.stride) {
    some_tiles<Product, 1, M>(w, tile, part);
  }
}

template <typename Product, int R, int M>
FLOAT_KERNEL void some_rows(const ChatglmWeight& w, int64_t r, const Part& part) {
  const uint8_t* x = part.panel + part.first * kStep;
  const int64_t stride = w.columns * column_bytes(w.kind);
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + r * stride;
  uint8_t end[R][kStep] = {};
  __m512 total[R][M];
  UNROLL for (int k = 0; k < R; ++k) {
    UNROLL for (int i = 0; i < M; ++i) total[k][i] = _mm512_setzero_ps();
  }
  for (int64_t at = 0; at < stride; at += kStep, x += part.rows * kStep) {
    const uint8_t* from = data + at;
    int64_t step = stride;
    if (at + kStep > stride) {
      UNROLL for (int k = 0; k < R; ++k) std::memcpy(end[k], from + k * stride, size_t(stride - at));
      from = end[0];
      step = kStep;
    }
    __m512i values[M];
    UNROLL for (int i = 0; i < M; ++i) values[i] = _mm512_loadu_si512(x + i * kStep);
    UNROLL for (int k = 0; k < R; ++k) {
      const __m512i row = _mm512_loadu_si512(from + k * step);
      _mm_prefetch(reinterpret_cast<const char*>(from + k * step + kAhead / 2), _MM_HINT_T0);
      UNROLL for (int i = 0; i < M; ++i) total[k][i] = Product::add(total[k][i], row, values[i]);
    }
  }
  UNROLL for (int k = 0; k < R; ++k) {
    UNROLL for (int i = 0; i < M; ++i) {
      const float sum = _mm512_reduce_add_ps(total[k][i]);
      part.y[i * part.ldy + r + k] = w.bias ? sum + w.bias[r + k] : sum;
    }
  }
}

template <typename Product, int M>
FLOAT_KERNEL void all_rows(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  constexpr int R = M == 1 ? 8 : 4;
  for (; begin + R <= end; begin += R) some_rows<Product, R, M>(w, begin, part);
  for (; begin < end; ++begin) some_rows<Product, 1, M>(w, begin, part);
}

constexpr int kMostTiles = 8, kMostRows = 4;

template <typename Product, int M = kMostTiles>
void tiles_of(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  if (part.count == M) {
    all_tiles<Product, M>(w, tile, count, part);
  } else if constexpr (M > 1) {
    tiles_of<Product, M - 1>(w, tile, count, part);
  }
}

template <typename Product, int M = kMostRows>
void rows_of(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  if (part.count == M) {
    all_rows<Product, M>(w, begin, end, part);
  } else if constexpr (M > 1) {
    rows_of<Product, M - 1>(w, begin, end, part);
  }
}

bool has_bf16() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}

void tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  if (w.kind == kFloatWeight) return tiles_of<FloatProduct>(w, tile, count, part);
  (has_bf16() ? tiles_of<BrainProduct> : tiles_of<WidenedProduct>)(w, tile, count, part);
}

void rows(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  if (w.kind == kFloatWeight) return rows_of<FloatProduct>(w, begin, end, part);
  (has_bf16() ? rows_of<BrainProduct> : rows_of<WidenedProduct>)(w, begin, end, part);
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = {quantize, whole, tiles, rows, kPanel, kMostTiles, kMostRows};
  return kernels;
}

}  // namespace linear

#endif
