// The products in plain C++, for processors without kernels of their own, and what the kernels are
// tested against.

#include <algorithm>
#include <cmath>

#include "linear_kernels.h"
#include "vector.h"

namespace linear {

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent == 0) {
    const float tiny = std::ldexp(float(fraction), -24);
    return sign ? -tiny : tiny;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

namespace {

void quantize(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
              int64_t rows) {
  quantize_group(x, count, correction, unit, row, rows);
}

// The number of a column in a row of a tile.
int whole_at(const uint8_t* tile, int64_t bits, int64_t column, int64_t lane) {
  const uint8_t* group = tile + column / kGroup * bits * kStep + lane * 4 + column % 4;
  const int64_t step = column % kGroup / 4;
  if (bits == 8) return group[step * kStep];
  const int low = group[step % 4 * kStep] >> step / 4 * 4 & 15;
  return bits == 4 ? low : low | (group[(4 + step / 4) * kStep] >> step % 4 * 2 & 3) << 4;
}

// Adds the bias and stores what is there of a tile.
void store(const ChatglmWeight& w, int64_t tile, const float* total, float* y) {
  const int64_t left = std::min(kLanes, w.rows - tile * kLanes);
  for (int64_t lane = 0; lane < left; ++lane) {
    const int64_t r = tile * kLanes + lane;
    y[r] = w.bias ? total[lane] + w.bias[r] : total[lane];
  }
}

void whole(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  const int64_t groups = up_to(w.columns, kBlock) / kGroup, bits = bits_of(w.kind);
  const int64_t unit = part.rows * unit_bytes(w.kind), middle = middle_of(bits);
  for (int64_t t = tile; t < tile + count; ++t) {
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + t * tile_bytes(w);
    for (int64_t i = 0; i < part.count; ++i) {
      float total[kLanes] = {};
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* x = part.panel + g * unit;
        const int8_t* values = reinterpret_cast<const int8_t*>(x) + (part.first + i) * kGroup;
        float x_scale;
        int32_t correction;
        std::memcpy(&x_scale, x + part.rows * kGroup + (part.first + i) * 4, 4);
        std::memcpy(&correction, x + part.rows * (kGroup + 4) + (part.first + i) * 4, 4);
        const int64_t scale = (t * num_scales(w) + g * kGroup / w.group) * kLanes;
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          int32_t sum = w.zeros ? correction / middle * w.zeros[scale + lane] : correction;
          for (int64_t j = 0; j < kGroup; ++j) {
            sum += whole_at(data, bits, g * kGroup + j, lane) * values[j];
          }
          total[lane] += half_to_float(w.scales[scale + lane]) * x_scale * float(sum);
        }
      }
      store(w, t, total, part.y + i * part.ldy);
    }
  }
}

float value_at(const void* data, int kind, int64_t at) {
  if (kind == kFloatWeight) {
    float value;
    std::memcpy(&value, static_cast<const uint8_t*>(data) + at * 4, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, static_cast<const uint8_t*>(data) + at * 2, 2);
  return from_brain(half);
}

void tiles(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part) {
  const int64_t unit = unit_columns(w.kind), step = unit / 16;
  const bool is_last = part.end == num_units(w);
  for (int64_t t = tile; t < tile + count; ++t) {
    const uint8_t* data = part.data + (t - tile) * part.stride - part.begin * kStep * kLanes;
    const int64_t left = std::min(kLanes, w.rows - t * kLanes);
    for (int64_t i = 0; i < part.count; ++i) {
      float* y = part.y + i * part.ldy + t * kLanes;
      float total[kLanes] = {};
      for (int64_t lane = 0; lane < left && part.begin > 0; ++lane) total[lane] = y[lane];
      for (int64_t c = part.begin * unit; c < part.end * unit; ++c) {
        const int64_t at = (c / unit * part.rows + part.first + i) * unit + c % unit;
        const float x = value_at(part.panel, w.kind, at);
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          total[lane] += value_at(data, w.kind, (c / step * kLanes + lane) * step + c % step) * x;
        }
      }
      for (int64_t lane = 0; lane < left; ++lane) {
        y[lane] = is_last && w.bias ? total[lane] + w.bias[t * kLanes + lane] : total[lane];
      }
    }
  }
}

void rows(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part) {
  const int64_t unit = unit_columns(w.kind);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t i = 0; i < part.count; ++i) {
      float total = 0;
      for (int64_t c = 0; c < w.columns; ++c) {
        const int64_t at = (c / unit * part.rows + part.first + i) * unit + c % unit;
        total += value_at(w.data, w.kind, r * w.columns + c) * value_at(part.panel, w.kind, at);
      }
      part.y[i * part.ldy + r] = w.bias ? total + w.bias[r] : total;
    }
  }
}

}  // namespace

const Kernels& portable_kernels() {
  static const Kernels kernels = {quantize, whole, tiles, rows, kPanel, kPanel, kPanel};
  return kernels;
}

void read_row(const ChatglmWeight& w, int64_t r, float* out) {
  const int64_t tile = r / kLanes, lane = r % kLanes;
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + (w.is_packed ? tile * tile_bytes(w) : 0);
  if (!is_whole(w.kind)) {
    const int64_t step = unit_columns(w.kind) / 16;
    for (int64_t c = 0; c < w.columns; ++c) {
      out[c] = value_at(data, w.kind, w.is_packed ? (c / step * kLanes + lane) * step + c % step
                                                  : r * w.columns + c);
    }
    return;
  }
  const int bits = bits_of(w.kind);
  for (int64_t group = 0, c = 0; c < w.columns; ++group) {
    const int64_t at = (tile * num_scales(w) + group) * kLanes + lane;
    const float scale = half_to_float(w.scales[at]);
    const int zero = w.zeros ? w.zeros[at] : middle_of(bits);
    for (const int64_t end = std::min((group + 1) * w.group, w.columns); c < end; ++c) {
      out[c] = scale * float(whole_at(data, bits, c, lane) - zero);
    }
  }
}

}  // namespace linear
