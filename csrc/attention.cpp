// Attention over keys and values in blocks of 16 tokens, with rotary positions put on and the new
// keys and values stored on the way: one call for all sequences of a layer.
//
// A block of keys is (width, 16), so that one vector register holds a coordinate of 16 keys; a block
// of values is (16, padded width), padded to 16. Both are float32, bfloat16, or int8 with a float32
// scale per token. Scores, softmax and sums are float32.
//
// Every query is computed in an order of its own: its scores key by key, its sum of values key by
// key. So a result depends neither on the other queries of a call nor on which blocks hold the keys.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "levels.h"
#include "linear.h"
#include "pool.h"
#include "vector.h"

namespace {

constexpr int64_t kKeys = 16;  // tokens in a block
constexpr int64_t kRows = 8;   // queries that share a block in registers
constexpr int64_t kMostWidth = 1024;

INLINE int64_t padded(int64_t width) { return (width + kKeys - 1) / kKeys * kKeys; }

INLINE float element(const ChatglmAttention& a, int64_t at) {
  return a.kind == kFloat ? static_cast<const float*>(a.qkv)[at]
                          : from_brain(static_cast<const uint16_t*>(a.qkv)[at]);
}

// A head's vector in float32; that of a query or key, which `turns`, by its token's angles.
INLINE void read_head(const ChatglmAttention& a, int64_t token, int64_t head, bool turns,
                      float* out) {
  const int64_t base = token * a.stride + head * a.width;
  for (int64_t d = 0; d < a.width; ++d) out[d] = element(a, base + d);
  if (!turns) return;
  const float* norm = head < a.heads ? a.q_norm : a.k_norm;
  if (norm != nullptr) {
    float squares = 0;
    for (int64_t d = 0; d < a.width; ++d) squares += out[d] * out[d];
    const float scale = 1.0f / std::sqrt(squares / float(a.width) + a.norm_eps);
    for (int64_t d = 0; d < a.width; ++d) out[d] *= scale * norm[d];
  }
  if (a.turned == 0) return;
  const int64_t half = a.turned / 2;
  for (int64_t plane = 0; plane < a.planes; ++plane) {
    const float* cos = a.cos + (token * a.planes + plane) * half;
    const float* sin = a.sin + (token * a.planes + plane) * half;
    float* x = out + plane * a.turned;
    for (int64_t i = 0; i < half; ++i) {
      const int64_t p = a.is_interleaved ? 2 * i : i, q = a.is_interleaved ? 2 * i + 1 : i + half;
      const float u = x[p], v = x[q];
      x[p] = u * cos[i] - v * sin[i];
      x[q] = v * cos[i] + u * sin[i];
    }
  }
}

INLINE float byte_scale(const float* x, int64_t width) {
  float largest = 0;
  for (int64_t d = 0; d < width; ++d) {
    const float size = std::fabs(x[d]);
    if (!(size <= 3.402823466e38f)) return NAN;
    largest = std::max(largest, size);
  }
  return largest / 127.0f;
}

// Keep the keys and values of one token.
INLINE void store(const ChatglmAttention& a, int64_t sequence, int64_t token, int64_t low,
                  int64_t high, float* buffer) {
  const int64_t slot = a.places[token];
  const int64_t block = a.tables[a.offsets[sequence] + slot / kKeys], at = slot % kKeys;
  const int64_t wide = padded(a.width);
  for (int64_t g = low; g < high; ++g) {
    const int64_t tile = g * a.num_blocks + block;
    for (int side = 0; side < 2; ++side) {
      const bool is_key = side == 0;
      read_head(a, token, a.heads + (is_key ? g : a.kv_heads + g), is_key, buffer);
      void* base = is_key ? a.keys : a.values;
      const int64_t start = is_key ? tile * a.width * kKeys + at : (tile * kKeys + at) * wide;
      const int64_t step = is_key ? kKeys : 1;
      if (a.kv_kind == kFloat) {
        float* to = static_cast<float*>(base) + start;
        for (int64_t d = 0; d < a.width; ++d) to[d * step] = buffer[d];
      } else if (a.kv_kind == kBrain) {
        uint16_t* to = static_cast<uint16_t*>(base) + start;
        for (int64_t d = 0; d < a.width; ++d) to[d * step] = to_brain(buffer[d]);
      } else {
        int8_t* to = static_cast<int8_t*>(base) + start;
        const float scale = byte_scale(buffer, a.width);
        (is_key ? a.key_scales : a.value_scales)[tile * kKeys + at] = scale;
        const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
        const bool is_sound = std::isfinite(inverse);
        for (int64_t d = 0; d < a.width; ++d) {
          const float x = is_sound ? std::nearbyintf(buffer[d] * inverse) : 0.0f;
          to[d * step] = int8_t(std::max(-127.0f, std::min(127.0f, x)));
        }
      }
    }
  }
}

// What `count` queries of one group of heads read, at most `rows`, from query `first` on; query r is
// head r mod share of token r div share.
template <int kind, int64_t rows>
INLINE void attend_tile(const ChatglmAttention& a, int64_t sequence, int64_t group, int64_t first,
                        int64_t count) {
  const int64_t share = a.heads / a.kv_heads, wide = padded(a.width);
  const int64_t begin = a.firsts[sequence];
  const int32_t* table = a.tables + a.offsets[sequence];
  const float scale = 1.0f / std::sqrt(float(a.width));
  int64_t visible[rows], most = 0;
  for (int64_t r = 0; r < rows; ++r) {  // rows that are too many repeat the last
    const int64_t row = first + std::min(r, count - 1);
    visible[r] = a.visible[begin + row / share];
    most = std::max(most, visible[r]);
  }
  const int64_t blocks = (most + kKeys - 1) / kKeys, span = blocks * kKeys;
  const size_t needed = size_t(rows * (2 * wide + span));
  thread_local std::vector<float> scratch;  // kept: calls come by the thousand
  if (scratch.size() < needed) scratch.resize(needed);
  float* q = scratch.data();             // (width, rows)
  float* sums = q + rows * wide;    // (rows, wide)
  float* scores = sums + rows * wide;   // (rows, span)
  float head[kMostWidth];
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = first + std::min(r, count - 1);
    read_head(a, begin + row / share, group * share + row % share, true, head);
    for (int64_t d = 0; d < a.width; ++d) q[d * rows + r] = head[d] * scale;
  }
  Floats top[rows];
  for (int64_t r = 0; r < rows; ++r) top[r] = Floats{} - INFINITY;
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t tile = group * a.num_blocks + table[b];
    const int64_t at = tile * a.width * kKeys;
    Floats score[rows] = {};
    for (int64_t d = 0; d < a.width; ++d) {
      const Floats key = load<kind>(a.keys, at + d * kKeys);
      for (int64_t r = 0; r < rows; ++r) score[r] += key * q[d * rows + r];
    }
    for (int64_t r = 0; r < rows; ++r) {
      if (kind == kByte) score[r] *= load<kFloat>(a.key_scales, tile * kKeys);
      const Ints seen = lanes < int32_t(visible[r] - b * kKeys);
      score[r] = seen ? score[r] : Floats{} - INFINITY;
      top[r] = score[r] > top[r] ? score[r] : top[r];
      *reinterpret_cast<Floats*>(scores + r * span + b * kKeys) = score[r];
    }
  }
  float total[rows];
  for (int64_t r = 0; r < rows; ++r) {
    float largest = top[r][0];
    for (int i = 1; i < kKeys; ++i) largest = std::max(largest, float(top[r][i]));
    Floats sum = {};
    for (int64_t b = 0; b < blocks; ++b) {
      Floats* part = reinterpret_cast<Floats*>(scores + r * span + b * kKeys);
      const Floats p = exponential(*part - largest);
      const Ints seen = lanes < int32_t(visible[r] - b * kKeys);
      const Floats kept = seen ? p : Floats{};
      sum += kept;
      *part = kept;
    }
    total[r] = 0;
    for (int i = 0; i < kKeys; ++i) total[r] += sum[i];
  }
  std::memset(sums, 0, size_t(rows * wide) * sizeof(float));
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t tile = group * a.num_blocks + table[b];
    const int64_t keys = std::min(kKeys, most - b * kKeys);
    float weights[kKeys][rows];
    for (int64_t j = 0; j < keys; ++j) {
      const float factor = kind == kByte ? a.value_scales[tile * kKeys + j] : 1.0f;
      for (int64_t r = 0; r < rows; ++r) {
        const float p = scores[r * span + b * kKeys + j];
        weights[j][r] = kind == kByte ? p * factor : p;
      }
    }
    for (int64_t d = 0; d < wide; d += kKeys) {
      Floats acc[rows];
      for (int64_t r = 0; r < rows; ++r) {
        acc[r] = *reinterpret_cast<const Floats*>(sums + r * wide + d);
      }
      for (int64_t j = 0; j < keys; ++j) {
        const Floats value = load<kind>(a.values, (tile * kKeys + j) * wide + d);
        for (int64_t r = 0; r < rows; ++r) acc[r] += value * weights[j][r];
      }
      for (int64_t r = 0; r < rows; ++r) *reinterpret_cast<Floats*>(sums + r * wide + d) = acc[r];
    }
  }
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = first + r;
    const int64_t at =
        (begin + row / share) * a.heads * a.width + (group * share + row % share) * a.width;
    const float inverse = 1.0f / total[r];
    for (int64_t d = 0; d < a.width; ++d) {
      const float y = sums[r * wide + d] * inverse;
      if (a.kind == kFloat) {
        static_cast<float*>(a.out)[at + d] = y;
      } else {
        static_cast<uint16_t*>(a.out)[at + d] = to_brain(y);
      }
    }
  }
}

INLINE void store_part(const ChatglmAttention& a, int64_t first, int64_t last, int64_t low,
                       int64_t high) {
  float buffer[kMostWidth];
  for (int64_t s = 0; s < a.num_sequences; ++s) {
    const int64_t begin = std::max<int64_t>(a.firsts[s], first);
    const int64_t end = std::min<int64_t>(a.firsts[s + 1], last);
    for (int64_t t = begin; t < end; ++t) store(a, s, t, low, high, buffer);
  }
}

template <int kind>
INLINE void attend_rows(const ChatglmAttention& a, const AttentionPiece& p) {
  for (int64_t done = 0; done < p.count; done += kRows) {
    const int64_t first = p.first + done, count = std::min(kRows, p.count - done);
    if (count > 4) {
      attend_tile<kind, kRows>(a, p.sequence, p.group, first, count);
    } else if (count > 1) {
      attend_tile<kind, 4>(a, p.sequence, p.group, first, count);
    } else {
      attend_tile<kind, 1>(a, p.sequence, p.group, first, count);
    }
  }
}

INLINE void attend_kind(const ChatglmAttention& a, const AttentionPiece& p) {
  if (a.kv_kind == kFloat) return attend_rows<kFloat>(a, p);
  if (a.kv_kind == kBrain) return attend_rows<kBrain>(a, p);
  attend_rows<kByte>(a, p);
}

// Takes pieces until none is left.
struct Work final : Task {
  const ChatglmAttention* call;
  std::vector<AttentionPiece> pieces;
  std::atomic<size_t> next{0};

  void run() override {
    for (;;) {
      const size_t i = next.fetch_add(1);
      if (i >= pieces.size()) return;
      attention_attend(*call, pieces[i]);
    }
  }
};

}  // namespace

bool attention_is_wrong(const ChatglmAttention& a) {
  return a.num_tokens < 0 || a.num_sequences < 0 || a.kv_heads < 1 || a.heads % a.kv_heads ||
         a.width < 1 || a.width > kMostWidth || a.planes < 0 || a.turned < 0 || a.turned % 2 ||
         a.planes * a.turned > a.width || (a.kind != kFloat && a.kind != kBrain) ||
         a.kv_kind < kFloat || a.kv_kind > kByte || a.num_threads < 1 || a.level < 0 ||
         a.level > linear::best_level();
}

int64_t attention_pieces(const ChatglmAttention& a, std::vector<AttentionPiece>& pieces) {
  int64_t products = 0;
  for (int64_t s = 0; s < a.num_sequences; ++s) {
    const int64_t length = a.firsts[s + 1] - a.firsts[s];
    const int64_t rows = length * (a.heads / a.kv_heads);
    for (int64_t first = 0; first < rows; first += kRows) {
      for (int64_t g = 0; g < a.kv_heads; ++g) {
        pieces.push_back({int32_t(s), int32_t(g), int32_t(first),
                          int32_t(std::min(kRows, rows - first))});
      }
    }
    if (length > 0) products += length * a.heads * a.width * a.visible[a.firsts[s + 1] - 1];
  }
  return products;
}

void attention_store(const ChatglmAttention& a, int64_t first, int64_t last, int64_t low,
                     int64_t high) {
  at_level<store_part>(a.level)(a, first, last, low, high);
}

void attention_attend(const ChatglmAttention& a, const AttentionPiece& piece) {
  at_level<attend_kind>(a.level)(a, piece);
}

extern "C" {

// 0, or 1 where an argument is out of range.
__attribute__((visibility("default"))) int chatglm_attention(const ChatglmAttention* call) {
  const ChatglmAttention& a = *call;
  if (attention_is_wrong(a)) return 1;
  attention_store(a, 0, a.num_tokens, 0, a.kv_heads);
  Work work;
  work.call = call;
  // A call of a few microseconds is not worth waking anybody.
  const int64_t most = attention_pieces(a, work.pieces) < 400000 ? 1 : a.num_threads;
  run_in_parallel(work, int(std::min<int64_t>(most, int64_t(work.pieces.size()))));
  return 0;
}
}
