// What the kernels of each instruction set share: how inputs and tiles lie, and their functions.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "linear.h"

namespace linear {

constexpr int64_t kGroup = 32;   // columns of an input with one scale
constexpr int64_t kBlock = 64;   // columns are filled up to a multiple of it
constexpr int64_t kPanel = 16;   // rows of an input that lie together
constexpr int64_t kStep = 64;    // bytes: 4 of each of 16 rows of W

inline int64_t up_to(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}
inline bool is_whole(int kind) { return kind >= kInt8Weight; }
inline int64_t column_bytes(int kind) { return kind == kFloatWeight ? 4 : kind == kBrainWeight ? 2 : 1; }

// An input lies in panels of 16 rows, the last with what is left. A panel is a sequence of units:
// of whole numbers 32 columns, of others 64 bytes. A unit holds each row's bytes, and of whole
// numbers then each row's scale (float) and correction (int32: −8 or −128 times the row's sum).
inline int64_t unit_columns(int kind) { return is_whole(kind) ? kGroup : kStep / column_bytes(kind); }
inline int64_t unit_bytes(int kind) { return is_whole(kind) ? kGroup + 8 : kStep; }

// Rows [first, first + count) of a panel of `rows`; the result of the first goes to `y`.
struct Part {
  const uint8_t* panel;
  int64_t rows, first, count;
  float* y;
  int64_t ldy;
};

inline int64_t tile_bytes(const ChatglmWeight& w) {
  const int64_t padded = up_to(w.columns, kBlock) * kLanes;
  return w.kind == kInt4Weight ? padded / 2 : padded * column_bytes(w.kind);
}
inline int64_t num_scales(const ChatglmWeight& w) {
  return (up_to(w.columns, kBlock) + w.group - 1) / w.group;
}

float half_to_float(uint16_t half);

// The functions of an instruction set.
struct Kernels {
  // `count` of 32 columns to a unit of a panel of `rows`, for one row.
  void (*quantize)(const float* x, int64_t count, int32_t correction, uint8_t* unit, int64_t row,
                   int64_t rows);
  // Results of `tiles` tiles from `tile` on: of whole numbers, and of others.
  void (*whole)(const ChatglmWeight& w, int64_t tile, int64_t tiles, const Part& part);
  void (*tiles)(const ChatglmWeight& w, int64_t tile, int64_t tiles, const Part& part);
  // Results of rows [begin, end) that are not packed.
  void (*rows)(const ChatglmWeight& w, int64_t begin, int64_t end, const Part& part);
  int64_t most_whole, most_tiles, most_rows;  // rows of x that they take at once
};

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace linear
