// Products with weights of every kind: y = x Wᵀ + b.
//
// An input is prepared once and multiplied by as many weights of its kind as read it, any rows of
// them on any thread. A result depends on its row of x and its row of W only, never on the rows
// that come with them.

#pragma once

#include <cstdint>

// What the weights of a kind are, and what their input becomes.
enum WeightKind : int32_t {
  kFloatWeight = 0,  // float32; the input stays so
  kBrainWeight = 1,  // bfloat16; the input is rounded to it
  kInt8Weight = 2,   // whole numbers plus 128; the input has 8 bits in groups of 32
  kInt4Weight = 3,   // whole numbers plus 8; the input as for int8
  kInt6Weight = 4,   // whole numbers plus 32; the input as for int8
};

// A weight of `rows` × `columns`. Python mirrors it in chatglm/quantization/native.py.
//
// Packed rows lie in tiles of 16, filled up with zeros as the columns are to a multiple of 64. A
// tile is a sequence of steps of 64 bytes: 4 bytes of each of the 16 rows, which are 1 column of
// float32, 2 of bfloat16, 4 of int8. Two steps of int4, the eighths of 32 columns that are 4 apart,
// share 64 bytes: the first is in the low nibbles. int6 has the lower 4 bits of 32 columns as int4
// has them, and then 128 bytes of the upper 2: of the first four eighths, then of the others, the
// first of four in the lowest bits.
struct ChatglmWeight {
  const void* data;
  const uint16_t* scales;  // float16 (tiles, groups of columns, 16) of int8 and int4
  const uint8_t* zeros;    // (tiles, groups, 16): what stands for 0 where it is not the middle; or null
  const float* bias;       // (rows), or null
  int64_t rows, columns;
  int64_t group;      // columns to a scale, a multiple of 32; of float kinds unused
  int32_t kind;
  int32_t is_packed;  // else row after row as they are, which only float kinds may be
};

namespace linear {

constexpr int64_t kLanes = 16;  // rows of a tile

inline bool is_whole(int kind) { return kind >= kInt8Weight; }
inline bool is_kind(int kind) { return kind >= kFloatWeight && kind <= kInt6Weight; }

// Bits of a number.
inline int64_t bits_of(int kind) {
  constexpr int64_t bits[] = {32, 16, 8, 4, 6};
  return bits[kind];
}

// Bytes of a prepared input of m rows; it is aligned to 64.
int64_t input_bytes(int kind, int64_t m, int64_t columns);

// Prepares columns [begin, end) of row i of m; both are multiples of 64, but that end may be the
// last column. Parts may be prepared by different threads.
void prepare(int kind, const float* row, int64_t i, int64_t m, int64_t columns, int64_t begin,
             int64_t end, void* input, int level);

// y[i · ldy + r] for all m rows i of the input and rows r of W in [begin, end), of which begin is a
// multiple of 16. Neither allocates nor locks.
void multiply(const ChatglmWeight& weight, const void* input, int64_t m, float* y, int64_t ldy,
              int64_t begin, int64_t end, int level);

// Row r of W in float32, `columns` numbers: an embedding.
void read_row(const ChatglmWeight& weight, int64_t r, float* out);

// The best level of this processor: 0 portable, 1 AVX2, or NEON with the dot product, 2 AVX-512 with
// VNNI.
int best_level();

}  // namespace linear
