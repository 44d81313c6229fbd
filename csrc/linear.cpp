// Linears over quantized rows: y = x Wᵀ with W in 4 or 8 bits, x quantized to 8 bits on the fly.
//
// The layout is that of chatglm/quantization/linear.py: columns in blocks of 64; a block of int4 is
// 32 bytes, byte j holding column j in its low nibble and column j + 32 in its high one, both plus
// 8; float16 scales for 32 columns (int4) or 64 (int8). Activations are quantized in groups of 32.
//
// Every row of x is summed in an order of its own, so that its result does not depend on the rows
// that are computed with it.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kBlock = 64, kGroup = 32;
constexpr int64_t kRowsAtOnce = 16;  // rows of W that a thread takes at a time
constexpr int64_t kTile = 8;         // rows of x that share an unpacked block of W

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  uint32_t bits;
  if (exponent == 0) {
    const float tiny = std::ldexp(float(fraction), -24);
    return sign ? -tiny : tiny;
  }
  bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// One call: what all threads read, and where the next rows of W begin.
struct Call {
  const int8_t* x;       // (m, padded)
  const float* x_scale;  // (m, padded / 32)
  const float* x_sum;    // (m, padded / 32): −8 · scale · Σ x, for int4
  const uint8_t* w;
  const uint16_t* w_scale;
  float* y;  // (m, n)
  int64_t m, n, padded;
  int bits;
  std::atomic<int64_t> next{0};

  int64_t row_bytes() const { return bits == 8 ? padded : padded / 2; }
  int64_t num_scales() const { return padded / (bits == 8 ? 64 : 32); }
};

using Rows = void (*)(const Call&, int64_t row, int64_t first, int64_t count);

// Results of one row of W with `count` rows of x from `first` on, in plain C++.
void rows_portable(const Call& c, int64_t row, int64_t first, int64_t count) {
  const uint8_t* w = c.w + row * c.row_bytes();
  const uint16_t* scale = c.w_scale + row * c.num_scales();
  for (int64_t i = first; i < first + count; ++i) {
    const int8_t* x = c.x + i * c.padded;
    const float* x_scale = c.x_scale + i * (c.padded / kGroup);
    float total = 0;
    for (int64_t block = 0; block < c.padded / kBlock; ++block) {
      for (int64_t half = 0; half < 2; ++half) {
        int32_t sum = 0;
        for (int64_t j = 0; j < kGroup; ++j) {
          const int64_t column = block * kBlock + half * kGroup + j;
          const int value = c.bits == 8 ? int(int8_t(w[column]))
                                        : ((w[block * 32 + j] >> (4 * half)) & 15) - 8;
          sum += value * int(x[column]);
        }
        const int64_t group = 2 * block + half;
        total += half_to_float(scale[c.bits == 8 ? block : group]) * x_scale[group] * float(sum);
      }
    }
    c.y[i * c.n + row] = total;
  }
}

#if defined(__x86_64__)

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")))
#define AVX2 __attribute__((target("avx2,fma,f16c")))

template <int M>
AVX512 void tile_avx512(const Call& c, int64_t row, int64_t first) {
  const uint8_t* w = c.w + row * c.row_bytes();
  const uint16_t* scale = c.w_scale + row * c.num_scales();
  const int64_t blocks = c.padded / kBlock, groups = c.padded / kGroup;
  const int8_t* x = c.x + first * c.padded;
  const float* x_scale = c.x_scale + first * groups;
  const float* x_sum = c.x_sum + first * groups;
  __m512 total[M];
  for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_ps();
  const __m512i halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m256i low = _mm256_set1_epi8(15);
  for (int64_t block = 0; block < blocks; ++block) {
    __m512i weights;
    __m512 w_scale;
    __mmask64 negative = 0;
    if (c.bits == 4) {
      const __m256i packed = _mm256_loadu_si256((const __m256i*)(w + block * 32));
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
      weights = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(packed, low)), high, 1);
      uint32_t two;
      std::memcpy(&two, scale + 2 * block, 4);
      const __m128 pair = _mm_cvtph_ps(_mm_cvtsi32_si128(int(two)));
      w_scale = _mm512_permutexvar_ps(halves, _mm512_castps128_ps512(pair));
    } else {
      const __m512i signed_weights = _mm512_loadu_si512(w + block * 64);
      negative = _mm512_movepi8_mask(signed_weights);
      weights = _mm512_abs_epi8(signed_weights);
      w_scale = _mm512_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(scale[block]))));
    }
    for (int i = 0; i < M; ++i) {
      __m512i values = _mm512_loadu_si512(x + i * c.padded + block * kBlock);
      if (c.bits == 8) {
        values = _mm512_mask_sub_epi8(values, negative, _mm512_setzero_si512(), values);
      }
      const __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, values);
      uint64_t two;
      std::memcpy(&two, x_scale + i * groups + 2 * block, 8);
      const __m512 both = _mm512_permutexvar_ps(
          halves, _mm512_castps128_ps512(_mm_castsi128_ps(_mm_cvtsi64_si128(int64_t(two)))));
      total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(w_scale, both), total[i]);
    }
  }
  if (c.bits == 4) {  // the 8 that every nibble has too much
    for (int64_t group = 0; group < groups; group += 16) {
      const int64_t left = std::min<int64_t>(groups - group, 16);
      const __mmask16 there = __mmask16((1u << left) - 1);
      const __m512 w_scale =
          _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, (const void*)(scale + group)));
      for (int i = 0; i < M; ++i) {
        const __m512 sums = _mm512_maskz_loadu_ps(there, x_sum + i * groups + group);
        total[i] = _mm512_fmadd_ps(w_scale, sums, total[i]);
      }
    }
  }
  for (int i = 0; i < M; ++i) c.y[(first + i) * c.n + row] = _mm512_reduce_add_ps(total[i]);
}

void rows_avx512(const Call& c, int64_t row, int64_t first, int64_t count) {
  switch (count) {
    case 1: return tile_avx512<1>(c, row, first);
    case 2: return tile_avx512<2>(c, row, first);
    case 3: return tile_avx512<3>(c, row, first);
    case 4: return tile_avx512<4>(c, row, first);
    case 5: return tile_avx512<5>(c, row, first);
    case 6: return tile_avx512<6>(c, row, first);
    case 7: return tile_avx512<7>(c, row, first);
    default: return tile_avx512<8>(c, row, first);
  }
}

AVX2 float sum_avx2(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <int M>
AVX2 void tile_avx2(const Call& c, int64_t row, int64_t first) {
  const uint8_t* w = c.w + row * c.row_bytes();
  const uint16_t* scale = c.w_scale + row * c.num_scales();
  const int64_t groups = c.padded / kGroup;
  const int8_t* x = c.x + first * c.padded;
  const float* x_scale = c.x_scale + first * groups;
  __m256 total[M];
  for (int i = 0; i < M; ++i) total[i] = _mm256_setzero_ps();
  const __m256i low = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t group = 0; group < groups; ++group) {
    __m256i weights;
    if (c.bits == 4) {
      __m256i packed = _mm256_loadu_si256((const __m256i*)(w + group / 2 * 32));
      if (group & 1) packed = _mm256_srli_epi16(packed, 4);
      weights = _mm256_sub_epi8(_mm256_and_si256(packed, low), eight);
    } else {
      weights = _mm256_loadu_si256((const __m256i*)(w + group * kGroup));
    }
    const __m256i size = _mm256_abs_epi8(weights);
    const float w_scale =
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(scale[c.bits == 8 ? group / 2 : group])));
    for (int i = 0; i < M; ++i) {
      const __m256i values =
          _mm256_loadu_si256((const __m256i*)(x + i * c.padded + group * kGroup));
      // at most 2 · 127 · 127 in 16 bits: nothing saturates
      const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(values, weights));
      const __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
      const __m256 both = _mm256_set1_ps(w_scale * x_scale[i * groups + group]);
      total[i] = _mm256_fmadd_ps(sum, both, total[i]);
    }
  }
  for (int i = 0; i < M; ++i) c.y[(first + i) * c.n + row] = sum_avx2(total[i]);
}

void rows_avx2(const Call& c, int64_t row, int64_t first, int64_t count) {
  switch (count) {
    case 1: return tile_avx2<1>(c, row, first);
    case 2: return tile_avx2<2>(c, row, first);
    case 3: return tile_avx2<3>(c, row, first);
    case 4: return tile_avx2<4>(c, row, first);
    case 5: return tile_avx2<5>(c, row, first);
    case 6: return tile_avx2<6>(c, row, first);
    case 7: return tile_avx2<7>(c, row, first);
    default: return tile_avx2<8>(c, row, first);
  }
}

#endif

// What the processor has, best last.
enum Level { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

int best_level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kPortable;
}

Rows rows_of(int level) {
#if defined(__x86_64__)
  if (level == kAvx512) return rows_avx512;
  if (level == kAvx2) return rows_avx2;
#endif
  (void)level;
  return rows_portable;
}

// Takes rows of W until none is left; a thread that is held up takes fewer.
struct Work final : Task {
  Call call;
  Rows rows;

  void run() override {
    for (;;) {
      const int64_t begin = call.next.fetch_add(kRowsAtOnce);
      if (begin >= call.n) return;
      const int64_t end = std::min(begin + kRowsAtOnce, call.n);
      for (int64_t first = 0; first < call.m; first += kTile) {
        const int64_t count = std::min(kTile, call.m - first);
        for (int64_t row = begin; row < end; ++row) rows(call, row, first, count);
      }
    }
  }
};

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

// Rows of x to 8 bits in groups of 32; what is not a number or infinite gives results of that kind.
FOR_EACH_PROCESSOR
void quantize_rows(const float* x, int64_t m, int64_t k, int64_t padded, int8_t* out, float* scale,
                   float* sum) {
  const int64_t groups = padded / kGroup;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = group * kGroup, end = std::max(begin, std::min(begin + kGroup, k));
      const float* from = x + i * k;
      int8_t* to = out + i * padded + begin;
      float largest = 0;
      bool is_finite = true;
      for (int64_t j = begin; j < end; ++j) {
        const float size = std::fabs(from[j]);
        is_finite = is_finite && size <= 3.402823466e38f;
        largest = size > largest ? size : largest;
      }
      const float step = largest / 127.0f, inverse = step > 0 ? 127.0f / largest : 0.0f;
      std::memset(to, 0, kGroup);
      int32_t total = 0;
      if (is_finite && std::isfinite(inverse)) {
        for (int64_t j = begin; j < end; ++j) {
          const float scaled = std::nearbyintf(from[j] * inverse);
          to[j - begin] = int8_t(std::max(-127.0f, std::min(127.0f, scaled)));
          total += to[j - begin];
        }
      }
      const float kept = is_finite ? step : NAN;
      scale[i * groups + group] = kept;
      sum[i * groups + group] = -8.0f * kept * float(total);
    }
  }
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// The best instruction set of this processor that the kernels know: 0 portable, 1 AVX2, 2 AVX-512.
EXPORT int chatglm_best_level() { return best_level(); }

// Scratch bytes that chatglm_linear needs for m rows.
EXPORT int64_t chatglm_scratch_bytes(int64_t m, int64_t padded) {
  return m * padded + 2 * m * (padded / kGroup) * int64_t(sizeof(float));
}

// y (m, n) = x (m, k) · Wᵀ. `scratch` is aligned to 4 bytes; `level` is at most the best one.
// 0, or 1 where an argument is out of range.
EXPORT int chatglm_linear(const float* x, int64_t m, int64_t k, const uint8_t* w, const uint16_t* w_scale,
                   int64_t n, int64_t padded, int bits, float* y, void* scratch, int num_threads,
                   int level) {
  if (m < 0 || n < 0 || k < 0 || padded < k || padded % kBlock || (bits != 4 && bits != 8) ||
      level < 0 || level > best_level() || num_threads < 1) {
    return 1;
  }
  Work work;
  Call& call = work.call;
  const int64_t groups = padded / kGroup;
  float* x_scale = static_cast<float*>(scratch);
  float* x_sum = x_scale + m * groups;
  int8_t* quantized = reinterpret_cast<int8_t*>(x_sum + m * groups);
  quantize_rows(x, m, k, padded, quantized, x_scale, x_sum);
  call.x = quantized;
  call.x_scale = x_scale;
  call.x_sum = x_sum;
  call.w = w;
  call.w_scale = w_scale;
  call.y = y;
  call.m = m;
  call.n = n;
  call.padded = padded;
  call.bits = bits;
  work.rows = rows_of(level);
  const int64_t chunks = (n + kRowsAtOnce - 1) / kRowsAtOnce;
  // A call of a few microseconds is not worth waking anybody.
  const int64_t most = m * n * padded < 200000 ? 1 : num_threads;
  run_in_parallel(work, int(std::min(most, chunks)));
  return 0;
}

}  // extern "C"
