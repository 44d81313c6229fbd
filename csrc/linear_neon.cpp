// The products by NEON with its dot product: a register holds a quarter of a step of a tile, 4 bytes
// of 4 rows of W.

#if defined(__aarch64__)

#include <arm_neon.h>

#include "linear_kernels.h"

#define NEON __attribute__((target("arch=armv8.2-a+dotprod")))

namespace linear {

namespace {

constexpr int kMost = 4;  // rows of x at once
constexpr int64_t kQuarter = kLanes / 4;

// Stores 4 results from row r on, as far as the weight has them.
void store(const ChatglmWeight& w, int64_t r, float32x4_t total, float* y, bool adds_bias) {
  float values[kQuarter];
  vst1q_f32(values, total);
  for (int64_t lane = 0; lane < std::min(kQuarter, w.rows - r); ++lane) {
    y[r + lane] = adds_bias ? values[lane] + w.bias[r + lane] : values[lane];
  }
}

// Of 32 columns and 4 rows, the steps, signed.
template <int kBits>
NEON inline void unpack(const uint8_t* data, int8x16_t* steps) {
  if constexpr (kBits == 8) {
    UNROLL for (int j = 0; j < 8; ++j) {
      steps[j] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(data + j * kStep), vdupq_n_u8(128)));
    }
  } else {
    const uint8x16_t high = vdupq_n_u8(48);
    uint8x16_t found[8];
    UNROLL for (int j = 0; j < 4; ++j) {
      const uint8x16_t both = vld1q_u8(data + j * kStep);
      found[j] = vandq_u8(both, vdupq_n_u8(15));
      found[j + 4] = vshrq_n_u8(both, 4);
    }
    UNROLL for (int j = 0; j < 2 && kBits == 6; ++j) {
      const uint8x16_t four = vld1q_u8(data + (4 + j) * kStep);
      const uint8x16_t upper[] = {vshlq_n_u8(four, 4), vshlq_n_u8(four, 2), four, vshrq_n_u8(four, 2)};
      UNROLL for (int i = 0; i < 4; ++i) {
        found[4 * j + i] = vorrq_u8(found[4 * j + i], vandq_u8(upper[i], high));
      }
    }
    const int8x16_t middle = vdupq_n_s8(int8_t(middle_of(kBits)));
    UNROLL for (int j = 0; j < 8; ++j) steps[j] = vsubq_s8(vreinterpretq_s8_u8(found[j]), middle);
  }
}

template <int kBits, int M>
NEON void quarter_tile(const ChatglmWeight& w, int64_t tile, int64_t quarter, const Part& part) {
  constexpr int kMiddle = middle_of(kBits);
  const int64_t groups = up_to(w.columns, kBlock) / kGroup, rows = part.rows;
  const int64_t shared = w.group / kGroup;
  const int64_t offset = tile * num_scales(w) * kLanes + quarter * kQuarter;
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w) + quarter * 16;
  const uint8_t* x = part.panel;
  float32x4_t total[M];
  UNROLL for (int i = 0; i < M; ++i) total[i] = vdupq_n_f32(0);
  for (int64_t g = 0; g < groups;) {
    const int64_t at = offset + g / shared * kLanes;
    const float32x4_t w_scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(w.scales + at)));
    int32_t zeros[kQuarter] = {};  // beside the middle that the steps have lost
    for (int64_t lane = 0; lane < kQuarter && w.zeros; ++lane) {
      zeros[lane] = int32_t(w.zeros[at + lane]) - kMiddle;
    }
    const int32x4_t zero = vld1q_s32(zeros);
    const int64_t end = std::min(g + shared, groups);
    for (; g < end; ++g, data += kBits * kStep, x += rows * (kGroup + 8)) {
      int8x16_t steps[8];
      unpack<kBits>(data, steps);
      UNROLL for (int i = 0; i < M; ++i) {
        const int64_t row = part.first + i;
        int32_t correction;
        float scale;
        std::memcpy(&scale, x + rows * kGroup + row * 4, 4);
        std::memcpy(&correction, x + rows * (kGroup + 4) + row * 4, 4);
        const int8_t* values = reinterpret_cast<const int8_t*>(x) + row * kGroup;
        const int8x16_t low = vld1q_s8(values), high = vld1q_s8(values + 16);
        int32x4_t sum = vmulq_n_s32(zero, correction / kMiddle);
        sum = vdotq_laneq_s32(sum, steps[0], low, 0);
        sum = vdotq_laneq_s32(sum, steps[1], low, 1);
        sum = vdotq_laneq_s32(sum, steps[2], low, 2);
        sum = vdotq_laneq_s32(sum, steps[3], low, 3);
        sum = vdotq_laneq_s32(sum, steps[4], high, 0);
        sum = vdotq_laneq_s32(sum, steps[5], high, 1);
        sum = vdotq_laneq_s32(sum, steps[6], high, 2);
        sum = vdotq_laneq_s32(sum, steps[7], high, 3);
        total[i] = vfmaq_f32(total[i], vcvtq_f32_s32(sum), vmulq_n_f32(w_scale, scale));
      }
    }
  }
  for (int i = 0; i < M; ++i) {
    const int64_t r = tile * kLanes + quarter * kQuarter;
    store(w, r, total[i], part.y + i * part.ldy, w.bias != nullptr);
  }
}

// total + w · x of 16 bytes of a float kind.
template <int kKind>
inline float32x4_t add(float32x4_t total, uint32x4_t w, uint32x4_t x) {
  if constexpr (kKind == kFloatWeight) {
    return vfmaq_f32(total, vreinterpretq_f32_u32(w), vreinterpretq_f32_u32(x));
  } else {
    const uint32x4_t high = vdupq_n_u32(0xffff0000);
    total = add<kFloatWeight>(total, vshlq_n_u32(w, 16), vshlq_n_u32(x, 16));
    return add<kFloatWeight>(total, vandq_u32(w, high), vandq_u32(x, high));
  }
}

inline uint32x4_t words(const uint8_t* from) { return vreinterpretq_u32_u8(vld1q_u8(from)); }

template <int kKind, int M>
void one_tile(const ChatglmWeight& w, int64_t tile, const Part& part) {
  const uint8_t* x = part.panel + (part.begin * part.rows + part.first) * kStep;
  const uint8_t* data = part.data;
  const int64_t r = tile * kLanes;
  float before[kLanes] = {};
  float32x4_t total[4][M];
  for (int i = 0; i < M; ++i) {
    for (int64_t lane = 0; lane < std::min(kLanes, w.rows - r) && part.begin > 0; ++lane) {
      before[lane] = part.y[i * part.ldy + r + lane];
    }
    UNROLL for (int q = 0; q < 4; ++q) total[q][i] = vld1q_f32(before + q * kQuarter);
  }
  for (int64_t u = part.begin; u < part.end; ++u, x += part.rows * kStep) {
    for (int j = 0; j < 16; ++j, data += kStep) {
      UNROLL for (int i = 0; i < M; ++i) {
        uint32_t word;
        std::memcpy(&word, x + i * kStep + j * 4, 4);
        const uint32x4_t four = vdupq_n_u32(word);
        UNROLL for (int q = 0; q < 4; ++q) {
          total[q][i] = add<kKind>(total[q][i], words(data + q * 16), four);
        }
      }
    }
  }
  const bool adds_bias = part.end == num_units(w) && w.bias;
  for (int q = 0; q < 4; ++q) {
    for (int i = 0; i < M; ++i) {
      const int64_t at = r + q * kQuarter;
      if (at < w.rows) store(w, at, total[q][i], part.y + i * part.ldy, adds_bias);
    }
  }
}

template <int kKind, int M>
void one_row(const ChatglmWeight& w, int64_t r, const Part& part) {
  const uint8_t* x = part.panel + part.first * kStep;
  const int64_t bytes = w.columns * column_bytes(w.kind);
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + r * bytes;
  float32x4_t total[4][M];
  UNROLL for (int i = 0; i < M; ++i) {
    UNROLL for (int q = 0; q < 4; ++q) total[q][i] = vdupq_n_f32(0);
  }
  for (int64_t at = 0; at < bytes; at += kStep, x += part.rows * kStep) {
    uint8_t end[kStep] = {};
    if (at + kStep > bytes) std::memcpy(end, data + at, size_t(bytes - at));
    const uint8_t* from = at + kStep > bytes ? end : data + at;
    UNROLL for (int i = 0; i < M; ++i) {
      UNROLL for (int q = 0; q < 4; ++q) {
        total[q][i] = add<kKind>(total[q][i], words(from + q * 16), words(x + i * kStep + q * 16));
      }
    }
  }
  UNROLL for (int i = 0; i < M; ++i) {
    const float32x4_t low = vaddq_f32(total[0][i], total[1][i]);
    const float sum = vaddvq_f32(vaddq_f32(low, vaddq_f32(total[2][i], total[3][i])));
    part.y[i * part.ldy + r] = w.bias ? sum + w.bias[r] : sum;
  }
}

template <int kBits, int M = kMost>
void whole_tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  if (part.count == M) {
    for (int64_t at = 0; at < 4 * count; ++at) {
      if ((tile + at / 4) * kLanes + at % 4 * kQuarter < w.rows) {
        quarter_tile<kBits, M>(w, tile + at / 4, at % 4, part);
      }
    }
  } else if constexpr (M > 1) {
    whole_tiles<kBits, M - 1>(w, tile, count, part);
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
    for (; begin < end; ++begin) one_row<kKind, M>(w, begin, part);
  } else if constexpr (M > 1) {
    rows_of<kKind, M - 1>(w, begin, end, part);
  }
}

void whole(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  (w.kind == kInt8Weight   ? whole_tiles<8>
   : w.kind == kInt6Weight ? whole_tiles<6>
                           : whole_tiles<4>)(w, tile, count, part);
}

void tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  (w.kind == kFloatWeight ? tiles_of<kFloatWeight> : tiles_of<kBrainWeight>)(w, tile, count, part);
}

void rows(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  (w.kind == kFloatWeight ? rows_of<kFloatWeight> : rows_of<kBrainWeight>)(w, begin, end, part);
}

void quantize(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
              int64_t rows) {
  quantize_group(x, count, correction, unit, row, rows);
}

}  // namespace

const Kernels& neon_kernels() {
  static const Kernels kernels = {quantize, whole, tiles, rows, kMost, kMost, kMost};
  return kernels;
}

}  // namespace linear

#endif
