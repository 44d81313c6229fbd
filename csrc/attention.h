// Attention over keys and values in blocks of 16 tokens: what a call is, and the pieces that it can
// be cut into.

#pragma once

#include <cstdint>
#include <vector>

extern "C" {

// One layer's call; mirrored in chatglm/generation/native.py, field by field.
struct ChatglmAttention {
  const void* qkv;  // (tokens, stride): query heads, key heads, value heads
  void* out;        // (tokens, heads · width)
  void* keys;       // (kv heads, blocks, width, 16)
  void* values;     // (kv heads, blocks, 16, padded width)
  float* key_scales;    // (kv heads, blocks, 16), for int8
  float* value_scales;  // the same
  const float* cos;     // (tokens, planes · turned / 2)
  const float* sin;
  const float* q_norm;      // (width), of the root mean square of each query head, or null
  const float* k_norm;      // the same of key heads
  const int32_t* tables;   // blocks of all sequences, one after the other
  const int32_t* offsets;  // (sequences + 1), where each one's begin
  const int32_t* firsts;   // (sequences + 1), the first token of each in qkv
  const int32_t* places;   // (tokens), the slot that each token is stored in
  const int32_t* visible;  // (tokens), how many slots each may see
  int64_t stride, num_tokens, num_sequences, num_blocks;
  int64_t heads, kv_heads, width;
  int64_t planes, turned;  // width turned by one plane; 0: no rotary positions
  int32_t is_interleaved;
  int32_t kind;     // of qkv and out: 0 float32, 1 bfloat16
  int32_t kv_kind;  // of keys and values: 0 float32, 1 bfloat16, 2 int8
  int32_t num_threads;
  int32_t level;  // 0 portable, 1 AVX2, 2 AVX-512
  float norm_eps;
};
}

// Queries of one group of heads and one sequence that are computed together.
struct AttentionPiece {
  int32_t sequence, group, first, count;
};

// Whether an argument is out of range.
bool attention_is_wrong(const ChatglmAttention& call);

// Appends all pieces of a call; gives the number of their products.
int64_t attention_pieces(const ChatglmAttention& call, std::vector<AttentionPiece>& pieces);

// Keeps the keys and values of tokens [first, last) in groups [low, high).
void attention_store(const ChatglmAttention& call, int64_t first, int64_t last, int64_t low,
                     int64_t high);

// What one piece's queries read, however many; after the keys and values that they see were kept.
void attention_attend(const ChatglmAttention& call, const AttentionPiece& piece);
