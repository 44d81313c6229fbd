// The products by AVX2, with VNNI where the processor has it: a register holds half a step of a
// tile, 4 bytes of 8 rows of W.

#if defined(__x86_64__)

#include <immintrin.h>

#include "linear_kernels.h"

// VNNI is only in what is called where the processor has it: compilers do not use it by themselves.
#define AVX2 __attribute__((target("avx2,fma,f16c,avxvnni")))
#define AVX2_INLINE AVX2 __attribute__((always_inline)) inline

namespace linear {

namespace {

constexpr int kMost = 4;  // rows of x at once
constexpr int64_t kHalf = kLanes / 2;

AVX2_INLINE __m256i load(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

AVX2_INLINE int32_t word(const uint8_t* from) {
  int32_t bits;
  std::memcpy(&bits, from, 4);
  return bits;
}

AVX2_INLINE __m256i first_lanes(int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(std::clamp<int64_t>(count, 0, kHalf))), lanes);
}

// Stores 8 results from row r on, as far as the weight has them.
AVX2_INLINE void store(const ChatglmWeight& w, int64_t r, __m256 total, float* y, bool adds_bias) {
  const __m256i there = first_lanes(w.rows - r);
  if (adds_bias) total = _mm256_add_ps(total, _mm256_maskload_ps(w.bias + r, there));
  _mm256_maskstore_ps(y + r, there, total);
}

// Of 32 columns and 8 rows, the steps; without VNNI int8 is signed.
template <int kBits, bool kVnni>
AVX2_INLINE void unpack(const uint8_t* data, __m256i* steps) {
  if constexpr (kBits == 8) {
    const __m256i sign = _mm256_set1_epi8(kVnni ? 0 : char(128));
    UNROLL for (int j = 0; j < 8; ++j) steps[j] = _mm256_xor_si256(load(data + j * kStep), sign);
  } else {
    const __m256i low = _mm256_set1_epi8(15);
    UNROLL for (int j = 0; j < 4; ++j) {
      const __m256i both = load(data + j * kStep);
      steps[j] = _mm256_and_si256(both, low);
      steps[j + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
    if constexpr (kBits == 6) {
      const __m256i high = _mm256_set1_epi8(48);
      UNROLL for (int j = 0; j < 2; ++j) {
        const __m256i four = load(data + (4 + j) * kStep);
        const __m256i upper[] = {_mm256_slli_epi16(four, 4), _mm256_slli_epi16(four, 2), four,
                                 _mm256_srli_epi16(four, 2)};
        UNROLL for (int i = 0; i < 4; ++i) {
          steps[4 * j + i] = _mm256_or_si256(steps[4 * j + i], _mm256_and_si256(upper[i], high));
        }
      }
    }
  }
}

// The sum of 32 columns for 8 rows of W and one of x.
template <int kBits, bool kVnni>
AVX2_INLINE __m256i product(__m256i sum, const __m256i* steps, const uint8_t* x) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs = _mm256_setzero_si256();
  UNROLL for (int j = 0; j < 8; ++j) {
    const __m256i four = _mm256_set1_epi32(word(x + j * 4));
    if constexpr (kVnni) {
      sum = _mm256_dpbusd_avx_epi32(sum, steps[j], four);
    } else if constexpr (kBits == 4) {  // eight times 2 · 15 · 127 fit 16 bits
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(steps[j], four));
    } else if constexpr (kBits == 6) {
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(steps[j], four), ones));
    } else {  // 2 · 128 · 127 fit 16 bits
      const __m256i two =
          _mm256_maddubs_epi16(_mm256_abs_epi8(steps[j]), _mm256_sign_epi8(four, steps[j]));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, ones));
    }
  }
  if constexpr (!kVnni && kBits == 4) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
  return sum;
}

template <int kBits, bool kVnni, int M>
AVX2 void half_tile(const ChatglmWeight& w, int64_t tile, int64_t half, const Part& part) {
  constexpr bool kIsSigned = kBits == 8 && !kVnni;
  const int64_t groups = up_to(w.columns, kBlock) / kGroup, rows = part.rows;
  const int64_t shared = w.group / kGroup, offset = tile * num_scales(w) * kLanes + half * kHalf;
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w) + half * 32;
  const uint16_t* scales = w.scales + offset;
  const uint8_t* zeros = w.zeros ? w.zeros + offset : nullptr;
  const uint8_t* x = part.panel;
  __m256 total[M];
  UNROLL for (int i = 0; i < M; ++i) total[i] = _mm256_setzero_ps();
  for (int64_t g = 0; g < groups;) {
    const __m256 w_scale =
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    scales += kLanes;
    // What the correction is multiplied by, in steps of its own factor.
    __m256i zero = _mm256_set1_epi32(kIsSigned ? 0 : middle_of(kBits));
    if (zeros) {
      zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
      if constexpr (kIsSigned) zero = _mm256_sub_epi32(zero, _mm256_set1_epi32(128));
      zeros += kLanes;
    }
    const int64_t end = std::min(g + shared, groups);
    for (; g < end; ++g) {
      __m256i steps[8];
      unpack<kBits, kVnni>(data, steps);
      data += kBits * kStep;
      UNROLL for (int i = 0; i < M; ++i) {
        const int64_t row = part.first + i;
        const int32_t correction = word(x + rows * (kGroup + 4) + row * 4);
        __m256i sum = _mm256_mullo_epi32(_mm256_set1_epi32(correction), zero);
        sum = _mm256_srai_epi32(sum, kBits - 1);
        sum = product<kBits, kVnni>(sum, steps, x + row * kGroup);
        float scale;
        std::memcpy(&scale, x + rows * kGroup + row * 4, 4);
        const __m256 both = _mm256_mul_ps(w_scale, _mm256_set1_ps(scale));
        total[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), both, total[i]);
      }
      x += rows * (kGroup + 8);
    }
  }
  UNROLL for (int i = 0; i < M; ++i) {
    store(w, tile * kLanes + half * kHalf, total[i], part.y + i * part.ldy, w.bias != nullptr);
  }
}

template <int kBits, bool kVnni, int M = kMost>
void whole_tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  if (part.count == M) {
    for (int64_t half = 0; half < 2 * count; ++half) {
      half_tile<kBits, kVnni, M>(w, tile + half / 2, half % 2, part);
    }
  } else if constexpr (M > 1) {
    whole_tiles<kBits, kVnni, M - 1>(w, tile, count, part);
  }
}

void whole(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  static const bool has_vnni = __builtin_cpu_supports("avxvnni");
  if (w.kind == kInt8Weight) {
    (has_vnni ? whole_tiles<8, true> : whole_tiles<8, false>)(w, tile, count, part);
  } else if (w.kind == kInt6Weight) {
    (has_vnni ? whole_tiles<6, true> : whole_tiles<6, false>)(w, tile, count, part);
  } else {
    (has_vnni ? whole_tiles<4, true> : whole_tiles<4, false>)(w, tile, count, part);
  }
}

// total + w · x of 32 bytes of a float kind.
template <int kKind>
AVX2_INLINE __m256 add(__m256 total, __m256i w, __m256i x) {
  if constexpr (kKind == kFloatWeight) {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(w), _mm256_castsi256_ps(x), total);
  } else {
    const __m256i high = _mm256_set1_epi32(int32_t(0xffff0000));
    total = add<kFloatWeight>(total, _mm256_slli_epi32(w, 16), _mm256_slli_epi32(x, 16));
    return add<kFloatWeight>(total, _mm256_and_si256(w, high), _mm256_and_si256(x, high));
  }
}

template <int kKind, int M>
AVX2 void one_tile(const ChatglmWeight& w, int64_t tile, const Part& part) {
  const uint8_t* x = part.panel + (part.begin * part.rows + part.first) * kStep;
  const uint8_t* data = part.data;
  const int64_t r = tile * kLanes;
  __m256 total[2][M];
  UNROLL for (int h = 0; h < 2; ++h) {
    const __m256i there = first_lanes(part.begin > 0 ? w.rows - r - h * kHalf : 0);
    UNROLL for (int i = 0; i < M; ++i) {
      total[h][i] = _mm256_maskload_ps(part.y + i * part.ldy + r + h * kHalf, there);
    }
  }
  for (int64_t u = part.begin; u < part.end; ++u, x += part.rows * kStep) {
    for (int j = 0; j < 16; ++j, data += kStep) {
      const __m256i step[2] = {load(data), load(data + 32)};
      UNROLL for (int i = 0; i < M; ++i) {
        const __m256i four = _mm256_set1_epi32(word(x + i * kStep + j * 4));
        UNROLL for (int h = 0; h < 2; ++h) total[h][i] = add<kKind>(total[h][i], step[h], four);
      }
    }
  }
  const bool adds_bias = part.end == num_units(w) && w.bias;
  UNROLL for (int h = 0; h < 2; ++h) {
    UNROLL for (int i = 0; i < M; ++i) {
      store(w, r + h * kHalf, total[h][i], part.y + i * part.ldy, adds_bias);
    }
  }
}

AVX2_INLINE float sum_of(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <int kKind, int R, int M>
AVX2 void some_rows(const ChatglmWeight& w, int64_t r, const Part& part) {
  const uint8_t* x = part.panel + part.first * kStep;
  const int64_t stride = w.columns * column_bytes(w.kind);
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + r * stride;
  uint8_t end[R][kStep] = {};
  __m256 total[R][M];
  UNROLL for (int k = 0; k < R; ++k) {
    UNROLL for (int i = 0; i < M; ++i) total[k][i] = _mm256_setzero_ps();
  }
  for (int64_t at = 0; at < stride; at += kStep, x += part.rows * kStep) {
    const uint8_t* from = data + at;
    int64_t step = stride;
    if (at + kStep > stride) {
      UNROLL for (int k = 0; k < R; ++k) std::memcpy(end[k], from + k * stride, size_t(stride - at));
      from = end[0];
      step = kStep;
    }
    for (int half = 0; half < 64; half += 32) {
      __m256i values[M];
      UNROLL for (int i = 0; i < M; ++i) values[i] = load(x + i * kStep + half);
      UNROLL for (int k = 0; k < R; ++k) {
        const __m256i row = load(from + k * step + half);
        UNROLL for (int i = 0; i < M; ++i) total[k][i] = add<kKind>(total[k][i], row, values[i]);
      }
    }
  }
  UNROLL for (int k = 0; k < R; ++k) {
    UNROLL for (int i = 0; i < M; ++i) {
      const float sum = sum_of(total[k][i]);
      part.y[i * part.ldy + r + k] = w.bias ? sum + w.bias[r + k] : sum;
    }
  }
}

template <int kKind, int M = kMost>
void tiles_of(const ChatglmWeight& w, int64_t tile, int64_t count, Part part) {
  if (part.count == M) {
    for (; count > 0; --count, part.data += part.stride) one_tile<kKind, M>(w, tile++, part);
  } else if constexpr (M > 1) {
    tiles_of<kKind, M - 1>(w, tile, count, part);
  }
}

template <int kKind, int M = kMost>
void rows_of(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  if (part.count == M) {
    constexpr int R = M == 1 ? 4 : 2;
    for (; begin + R <= end; begin += R) some_rows<kKind, R, M>(w, begin, part);
    for (; begin < end; ++begin) some_rows<kKind, 1, M>(w, begin, part);
  } else if constexpr (M > 1) {
    rows_of<kKind, M - 1>(w, begin, end, part);
  }
}

void tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  (w.kind == kFloatWeight ? tiles_of<kFloatWeight> : tiles_of<kBrainWeight>)(w, tile, count, part);
}

void rows(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  (w.kind == kFloatWeight ? rows_of<kFloatWeight> : rows_of<kBrainWeight>)(w, begin, end, part);
}

AVX2 void quantize(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
                   int64_t rows) {
  quantize_group(x, count, correction, unit, row, rows);
}

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = {quantize, whole, tiles, rows, kMost, kMost, kMost};
  return kernels;
}

}  // namespace linear

#endif
