// What the kernels of each instruction set share: how inputs and tiles lie, and their functions.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "linear.h"

// In front of a loop over registers: an array that a loop reads would lie in memory.
#define UNROLL _Pragma("GCC unroll 16")

namespace linear {

constexpr int64_t kGroup = 32;   // columns of an input with one scale
constexpr int64_t kBlock = 64;   // columns are filled up to a multiple of it
constexpr int64_t kPanel = 16;   // rows of an input that lie together
constexpr int64_t kStep = 64;    // bytes: 4 of each of 16 rows of W

inline int64_t up_to(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}
inline int64_t column_bytes(int kind) { return is_whole(kind) ? 1 : bits_of(kind) / 8; }  // of an input

// An input lies in panels of 16 rows, the last with what is left. A panel is a sequence of units:
// of whole numbers 32 columns, of others 64 bytes. A unit holds each row's bytes, and of whole
// numbers then each row's scale (float) and correction (int32: minus the middle times the row's sum).
inline int64_t unit_columns(int kind) { return is_whole(kind) ? kGroup : kStep / column_bytes(kind); }
inline int64_t unit_bytes(int kind) { return is_whole(kind) ? kGroup + 8 : kStep; }

// Rows [first, first + count) of a panel of `rows`; the result of the first goes to `y`. Of float
// kinds in tiles it is units [begin, end) of the columns, and what those before gave is in `y`;
// `data` is the first tile's unit `begin`, the next tile's lies `stride` bytes further.
struct Part {
  const uint8_t* panel;
  int64_t rows, first, count;
  float* y;
  int64_t ldy, begin, end;
  const uint8_t* data;
  int64_t stride;
};

inline int64_t num_units(const ChatglmWeight& w) {
  return up_to(w.columns, kBlock) / unit_columns(w.kind);
}
inline int64_t tile_bytes(const ChatglmWeight& w) {
  return up_to(w.columns, kBlock) * kLanes * bits_of(w.kind) / 8;
}
inline int64_t num_scales(const ChatglmWeight& w) {
  return (up_to(w.columns, kBlock) + w.group - 1) / w.group;
}

float half_to_float(uint16_t half);

// The middle of what a number of so many bits holds.
constexpr int32_t middle_of(int64_t bits) { return 1 << (bits - 1); }

// `count` of 32 columns to a unit of a panel of `rows`, for one row. What is not a number or
// infinite gives results of that kind.
__attribute__((always_inline)) inline void quantize_group(const float* x, int64_t count,
                                                          int32_t correction, uint8_t* unit,
                                                          int64_t row, int64_t rows) {
  float values[kGroup] = {};
  std::memcpy(values, x, size_t(count) * sizeof(float));
  int8_t* to = reinterpret_cast<int8_t*>(unit) + row * kGroup;
  // As whole numbers, sizes are in order, and those of what is not finite come last.
  int32_t most = 0;
  for (int64_t j = 0; j < kGroup; ++j) {
    int32_t size;
    std::memcpy(&size, values + j, 4);
    most = std::max(most, size & 0x7fffffff);
  }
  float largest;
  std::memcpy(&largest, &most, 4);
  const bool is_finite = most < 0x7f800000;
  float inverse = is_finite && largest > 0 ? 127.0f / largest : 0.0f;
  if (!(inverse <= 3.402823466e38f)) inverse = 0.0f;
  int32_t sum = 0;
  for (int64_t j = 0; j < kGroup; ++j) {
    const float scaled = is_finite ? values[j] * inverse : 0.0f;
    // Adding and taking off 1.5 · 2²³ rounds to the nearest whole number, halves to the even one.
    const float rounded = (scaled + 12582912.0f) - 12582912.0f;
    to[j] = int8_t(int32_t(rounded));
    sum += int32_t(rounded);
  }
  const float scale = is_finite ? largest / 127.0f : __builtin_nanf("");
  sum *= correction;
  std::memcpy(unit + rows * kGroup + row * 4, &scale, 4);
  std::memcpy(unit + rows * (kGroup + 4) + row * 4, &sum, 4);
}

// The functions of an instruction set.
struct Kernels {
  // As quantize_group.
  void (*quantize)(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
                   int64_t rows);
  // Results of `count` tiles from `tile` on: of whole numbers, and of others.
  void (*whole)(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part);
  void (*tiles)(const ChatglmWeight& w, int64_t tile, int64_t count, const Part& part);
  // Results of rows [begin, end) that are not packed.
  void (*rows)(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part);
  int64_t most_whole, most_tiles, most_rows;  // rows of x that they take at once
};

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

}  // namespace linear
