// One forward of a whole network over several sequences, in one call.
//
// A forward is a row of phases (norm, product, attention, …), each cut into pieces that threads take
// until none is left; a phase begins when all pieces of the one before are done. Nobody waits for a
// thread that holds no piece, so that a thread which the system has taken its processor from holds
// nothing up.
//
// The stream, norms, attention and activations are float32; products are what their weights are.
// A token's results do not depend on the tokens that are computed with it.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention.h"
#include "levels.h"
#include "linear.h"
#include "pool.h"
#include "vector.h"

extern "C" {

// Mirrored in chatglm/generation/network.py, field by field. Norms' arrays are (hidden size); null
// where there is none.
struct ChatglmLayer {
  const float *norm1, *norm1_bias, *norm1_post, *norm2, *norm2_bias, *norm2_post;
  const float *q_norm, *k_norm;  // (head width)
  ChatglmWeight qkv, out, up, down;
};

struct ChatglmNetwork {
  const ChatglmLayer* layers;
  const float *norm, *norm_bias;
  const float *cos, *sin;   // (num_positions, turned / 2)
  ChatglmWeight embedding, head;  // their rows are the words
  int64_t num_layers, hidden_size, ffn_size, num_positions;
  float norm_eps, residual_scale;
  int32_t norm_kind;   // 0 LayerNorm, 1 RMSNorm
  int32_t residual;    // 0 pre, 1 normed, 2 sandwich
  int32_t activation;  // 0 GELU, 1 its tanh approximation, 2 SwiGLU
};

// `attention` has all but what changes from layer to layer; strides are from layer to layer, in bytes.
struct ChatglmForward {
  const int32_t* tokens;
  const float* input;        // (tokens, hidden size) in the place of the words' embeddings, or null
  float* output;             // (tokens, hidden size)
  float* scores;             // (tokens, words) of the token after each, or null
  const int32_t* positions;  // (tokens, planes)
  void* scratch;
  int64_t scratch_bytes, key_stride, value_stride, scale_stride;
};
}

namespace {

constexpr int64_t kLanes = 16;
// Of a piece of a weight, at most. What several panels of an input read must stay in the cache; else
// memory is read in long stretches.
constexpr int64_t kCachedBytes = 128 << 10, kPieceBytes = 1 << 20;

INLINE float sum_of(Floats v) {
  float total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

INLINE Floats load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load<kFloat>(from, 0);
  Floats out = {};
  for (int64_t i = 0; i < count; ++i) out[i] = from[i];
  return out;
}

INLINE void store_some(float* to, int64_t count, Floats value) {
  if (count >= kLanes) {
    *reinterpret_cast<Floats*>(to) = value;
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = value[i];
  }
}

// The norm of a row; out may be x.
INLINE void norm_row(const ChatglmNetwork& n, const float* x, const float* weight,
                     const float* bias, float* out) {
  const int64_t width = n.hidden_size;
  float mean = 0;
  if (n.norm_kind == 0) {
    Floats sums = {};
    for (int64_t d = 0; d < width; d += kLanes) sums += load_some(x + d, width - d);
    mean = sum_of(sums) / float(width);
  }
  Floats squares = {};
  for (int64_t d = 0; d < width; d += kLanes) {
    Floats part = load_some(x + d, width - d);
    if (n.norm_kind == 0) {
      part = part - mean;
      for (int64_t i = width - d; i < kLanes; ++i) part[i] = 0;
    }
    squares += part * part;
  }
  const float scale = 1.0f / std::sqrt(sum_of(squares) / float(width) + n.norm_eps);
  for (int64_t d = 0; d < width; d += kLanes) {
    Floats part = (load_some(x + d, width - d) - mean) * scale * load_some(weight + d, width - d);
    if (bias != nullptr) part += load_some(bias + d, width - d);
    store_some(out + d, width - d, part);
  }
}

// The activation of `count` columns of a row; `value` is SwiGLU's second half.
INLINE void bend_part(int activation, const float* x, const float* value, float* out,
                      int64_t count) {
  for (int64_t d = 0; d < count; d += kLanes) {
    const Floats u = load_some(x + d, count - d);
    Floats y = {};
    if (activation == 0) {
      for (int64_t i = 0; i < kLanes; ++i) {
        y[i] = 0.5f * u[i] * (1.0f + std::erf(u[i] * 0.70710678118654752f));
      }
    } else {
      // SiLU is u · sigmoid(u); the approximated GELU is u · sigmoid of a cubic in u.
      const Floats z =
          activation == 2 ? u : 1.5957691216057308f * (u + 0.044715f * u * u * u);
      const Floats e = exponential(z < 0.0f ? z : -z);
      y = u * ((z < 0.0f ? e : Floats{} + 1.0f) / (e + 1.0f));
      if (activation == 2) y = y * load_some(value + d, count - d);
    }
    store_some(out + d, count - d, y);
  }
}

// x = x + y, or n · scale + y.
INLINE void join_row(const ChatglmNetwork& net, float* x, const float* n, const float* y) {
  for (int64_t d = 0; d < net.hidden_size; d += kLanes) {
    const int64_t left = net.hidden_size - d;
    const Floats base =
        net.residual == 1 ? load_some(n + d, left) * net.residual_scale : load_some(x + d, left);
    store_some(x + d, left, base + load_some(y + d, left));
  }
}

struct Rows {
  void (*norm)(const ChatglmNetwork&, const float*, const float*, const float*, float*);
  void (*bend)(int, const float*, const float*, float*, int64_t);
  void (*join)(const ChatglmNetwork&, float*, const float*, const float*);
};

Rows rows_of(int level) {
  return {at_level<norm_row>(level), at_level<bend_part>(level), at_level<join_row>(level)};
}

enum What { kEnter, kQkv, kDecode, kStore, kAttend, kGather, kOut, kMiddle, kUp, kDown, kLeave, kHead };

// Pieces of `size` rows or columns of one kind of work in one layer.
struct Phase {
  What what;
  int64_t layer, pieces, size;
};

// Two lines of the cache, since those who wait look at one while others count in the other.
struct Counter {
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int64_t> done{0};
};

INLINE int64_t parts(int64_t total, int64_t size) { return (total + size - 1) / size; }
INLINE int64_t rounded(int64_t count, int64_t to) { return parts(count, to) * to; }

// Where the arrays of a forward lie, in floats from the scratch memory's beginning.
struct Layout {
  int64_t x, normed, qkv, read, y, up, input, bent, total;

  Layout(const ChatglmNetwork& n, const ChatglmAttention& a) {
    const int64_t t = a.num_tokens, c = n.hidden_size, heads = a.heads * a.width;
    const int64_t wide = n.ffn_size * (n.activation == 2 ? 2 : 1);
    int64_t bytes[] = {0, 0};
    for (int64_t i = 0; i < n.num_layers; ++i) {
      const ChatglmLayer& layer = n.layers[i];
      const ChatglmWeight* weights[] = {&layer.qkv, &layer.out, &layer.up, &layer.down};
      for (int j = 0; j < 4; ++j) {
        const int64_t needed = linear::input_bytes(weights[j]->kind, t, weights[j]->columns);
        bytes[j % 2] = std::max(bytes[j % 2], needed);
      }
    }
    if (n.head.data) bytes[0] = std::max(bytes[0], linear::input_bytes(n.head.kind, t, c));
    int64_t at = 0;
    for (auto [start, size] : {std::pair<int64_t*, int64_t>{&x, t * c},
                               {&normed, n.residual == 1 ? t * c : 0},
                               {&qkv, t * (heads + 2 * a.kv_heads * a.width)},
                               {&read, t * heads},
                               {&y, t * c},
                               {&up, t * wide},
                               {&input, parts(bytes[0], 4)},
                               {&bent, parts(bytes[1], 4)}}) {
      *start = at;
      at += rounded(size, 16);
    }
    total = at;
  }
};

struct Forward final : Task {
  const ChatglmNetwork& net;
  const ChatglmForward& f;
  const Rows rows;
  const int level;
  std::vector<ChatglmAttention> attention;  // a layer each
  std::vector<AttentionPiece> reads;
  std::vector<float> cos, sin;  // of the tokens
  std::vector<Phase> phases;
  std::unique_ptr<Counter[]> counters;
  float *x, *normed, *qkv, *read, *y, *up;
  void *input, *bent;  // inputs of qkv and up, and of out and down

  Forward(const ChatglmNetwork& network, const ChatglmForward& forward, const ChatglmAttention& a)
      : net(network), f(forward), rows(rows_of(a.level)), level(a.level) {
    float* base = static_cast<float*>(f.scratch);
    const Layout at(net, a);
    x = base + at.x, normed = base + at.normed, qkv = base + at.qkv, read = base + at.read;
    y = base + at.y, up = base + at.up, input = base + at.input, bent = base + at.bent;
    turn(a);
    for (int64_t i = 0; i < net.num_layers; ++i) attention.push_back(layer_of(a, i));
    attention_pieces(a, reads);
    plan(a);
    counters.reset(new Counter[phases.size()]);
  }

  int64_t tokens() const { return attention[0].num_tokens; }

  // The angles of each token, as attention wants them.
  void turn(const ChatglmAttention& a) {
    const int64_t half = a.turned / 2;
    cos.resize(size_t(a.num_tokens * a.planes * half));
    sin.resize(cos.size());
    for (int64_t i = 0; i < a.num_tokens * a.planes && half > 0; ++i) {
      std::copy_n(net.cos + f.positions[i] * half, half, cos.data() + i * half);
      std::copy_n(net.sin + f.positions[i] * half, half, sin.data() + i * half);
    }
  }

  ChatglmAttention layer_of(const ChatglmAttention& a, int64_t layer) const {
    ChatglmAttention found = a;
    found.qkv = qkv;
    found.out = read;
    found.stride = (a.heads + 2 * a.kv_heads) * a.width;
    found.kind = kFloat;
    found.q_norm = net.layers[layer].q_norm;
    found.k_norm = net.layers[layer].k_norm;
    found.norm_eps = net.norm_eps;
    found.cos = cos.data();
    found.sin = sin.data();
    found.keys = static_cast<char*>(a.keys) + layer * f.key_stride;
    found.values = static_cast<char*>(a.values) + layer * f.value_stride;
    if (a.kv_kind == kByte) {
      found.key_scales = a.key_scales + layer * f.scale_stride / 4;
      found.value_scales = a.value_scales + layer * f.scale_stride / 4;
    }
    return found;
  }

  void add(What what, int64_t layer, int64_t total, int64_t size) {
    phases.push_back({what, layer, parts(total, size), size});
  }

  // Of `total` rows or columns of a weight those of a piece: as many pieces for each thread.
  int64_t slice(const ChatglmWeight& w, int64_t total, int64_t multiple, int threads) const {
    const int64_t most = tokens() > kLanes ? kCachedBytes : kPieceBytes;
    const int64_t bytes = w.rows * w.columns * linear::bits_of(w.kind) / 8;
    return rounded(parts(total, threads * parts(bytes, threads * most)), multiple);
  }

  void plan(const ChatglmAttention& a) {
    const int64_t t = a.num_tokens;
    const int64_t some = std::max<int64_t>(1, 8192 / net.hidden_size);  // rows of a few microseconds
    // One token of each sequence: keeping, reading and preparing are one piece for each group.
    const bool decodes = t == a.num_sequences && t * a.kv_heads >= a.num_threads &&
                         a.heads / a.kv_heads * a.width % 64 == 0;
    const int threads = a.num_threads;
    add(kEnter, 0, t, some);
    for (int64_t i = 0; i < net.num_layers; ++i) {
      const ChatglmLayer& layer = net.layers[i];
      add(kQkv, i, layer.qkv.rows, slice(layer.qkv, layer.qkv.rows, 16, threads));
      if (decodes) {
        add(kDecode, i, t * a.kv_heads, 1);
      } else {
        add(kStore, i, t, 4 * some);
        add(kAttend, i, int64_t(reads.size()), 1);
        add(kGather, i, t, some);
      }
      add(kOut, i, layer.out.rows, slice(layer.out, layer.out.rows, 16, threads));
      add(kMiddle, i, t, some);
      add(kUp, i, net.ffn_size, slice(layer.up, net.ffn_size, 64, threads));
      add(kDown, i, layer.down.rows, slice(layer.down, layer.down.rows, 16, threads));
      add(kLeave, i, t, some);
    }
    if (f.scores) {
      const int64_t rows = net.head.rows;
      add(kHead, net.num_layers - 1, rows, slice(net.head, rows, 16, threads));
    }
  }

  void run() override {
    for (size_t p = 0; p < phases.size(); ++p) {
      const Phase& phase = phases[p];
      Counter& counter = counters[p];
      int64_t mine = 0;
      for (;;) {
        const int64_t piece = counter.next.fetch_add(1, std::memory_order_relaxed);
        if (piece >= phase.pieces) break;
        compute(phase, piece);
        ++mine;
      }
      if (mine) counter.done.fetch_add(mine, std::memory_order_release);
      wait_until([&] { return counter.done.load(std::memory_order_acquire) >= phase.pieces; });
    }
  }

  void compute(const Phase& p, int64_t piece) {
    const ChatglmLayer& layer = net.layers[p.layer];
    const int64_t begin = piece * p.size;
    const int64_t end = std::min(begin + p.size, tokens());
    switch (p.what) {
      case kQkv: return multiply(layer.qkv, input, qkv, begin, p.size);
      case kOut: return multiply(layer.out, bent, y, begin, p.size);
      case kUp: return bend(layer, begin, std::min(begin + p.size, net.ffn_size));
      case kDown: return multiply(layer.down, bent, y, begin, p.size);
      case kHead: return multiply(net.head, input, f.scores, begin, p.size);
      case kStore: return store(attention[size_t(p.layer)], begin, end);
      case kAttend: return attention_attend(attention[size_t(p.layer)], reads[size_t(piece)]);
      case kDecode: return decode(attention[size_t(p.layer)], layer, piece);
      default: break;
    }
    for (int64_t i = begin; i < end; ++i) {
      if (p.what == kGather) {
        prepare(layer.out, read + i * layer.out.columns, i, bent);
      } else if (p.what == kEnter) {
        begin_row(i);
        enter(i, layer.norm1, layer.norm1_bias, layer.qkv);
      } else if (p.what == kMiddle) {
        join(i, layer.norm1_post);
        enter(i, layer.norm2, layer.norm2_bias, layer.up);
      } else {
        join(i, layer.norm2_post);
        leave(i, p.layer);
      }
    }
  }

  void store(const ChatglmAttention& a, int64_t begin, int64_t end) {
    attention_store(a, begin, end, 0, a.kv_heads);
  }

  void multiply(const ChatglmWeight& w, const void* from, float* out, int64_t begin, int64_t size) {
    const int64_t end = std::min(begin + size, w.rows);
    linear::multiply(w, from, tokens(), out, w.rows, begin, end, level);
  }

  void prepare(const ChatglmWeight& w, const float* row, int64_t i, void* to) {
    linear::prepare(w.kind, row, i, tokens(), w.columns, 0, w.columns, to, level);
  }

  void begin_row(int64_t i) {
    float* row = x + i * net.hidden_size;
    if (f.input == nullptr) {
      linear::read_row(net.embedding, f.tokens[i], row);
    } else {
      std::copy_n(f.input + i * net.hidden_size, net.hidden_size, row);
    }
  }

  // The norm of a row of the stream, as the next product takes it.
  void enter(int64_t i, const float* weight, const float* bias, const ChatglmWeight& next) {
    thread_local std::vector<float> buffer;
    if (buffer.size() < size_t(net.hidden_size)) buffer.resize(size_t(net.hidden_size));
    float* out = net.residual == 1 ? normed + i * net.hidden_size : buffer.data();
    rows.norm(net, x + i * net.hidden_size, weight, bias, out);
    prepare(next, out, i, input);
  }

  // A block's output joins the stream.
  void join(int64_t i, const float* post) {
    float* out = y + i * net.hidden_size;
    if (post != nullptr) rows.norm(net, out, post, nullptr, out);
    rows.join(net, x + i * net.hidden_size, normed + i * net.hidden_size, out);
  }

  void leave(int64_t i, int64_t layer) {
    if (layer + 1 < net.num_layers) {
      const ChatglmLayer& next = net.layers[layer + 1];
      return enter(i, next.norm1, next.norm1_bias, next.qkv);
    }
    const float* row = x + i * net.hidden_size;
    float* out = f.output + i * net.hidden_size;
    if (net.norm != nullptr) {
      rows.norm(net, row, net.norm, net.norm_bias, out);
    } else {
      std::copy_n(row, net.hidden_size, out);
    }
    if (f.scores) prepare(net.head, out, i, input);
  }

  // Columns [begin, end) of the widened rows, bent and as `down` takes them.
  void bend(const ChatglmLayer& layer, int64_t begin, int64_t end) {
    const int64_t ffn = net.ffn_size, wide = layer.up.rows;
    linear::multiply(layer.up, input, tokens(), up, wide, begin, end, level);
    if (wide > ffn) {
      linear::multiply(layer.up, input, tokens(), up, wide, ffn + begin, ffn + end, level);
    }
    for (int64_t i = 0; i < tokens(); ++i) {
      float* row = up + i * wide;
      rows.bend(net.activation, row + begin, row + ffn + begin, row + begin, end - begin);
      linear::prepare(layer.down.kind, row, i, tokens(), ffn, begin, end, bent, level);
    }
  }

  // What one group's heads of one token read, as `out` takes it.
  void decode(const ChatglmAttention& a, const ChatglmLayer& layer, int64_t piece) {
    const int64_t i = piece / a.kv_heads, group = piece % a.kv_heads, share = a.heads / a.kv_heads;
    attention_store(a, i, i + 1, group, group + 1);
    attention_attend(a, {int32_t(i), int32_t(group), 0, int32_t(share)});
    const int64_t begin = group * share * a.width, end = begin + share * a.width;
    linear::prepare(layer.out.kind, read + i * a.heads * a.width, i, tokens(), layer.out.columns,
                    begin, end, bent, level);
  }
};

bool is_weight(const ChatglmWeight& w, int64_t rows, int64_t columns) {
  return w.rows == rows && w.columns == columns && w.data != nullptr && linear::is_kind(w.kind) &&
         (!linear::is_whole(w.kind) ||
          (w.is_packed && w.scales != nullptr && w.group > 0 && w.group % 32 == 0));
}

bool is_wrong(const ChatglmNetwork& n, const ChatglmForward& f, const ChatglmAttention& a) {
  if (attention_is_wrong(a) || a.num_tokens < 1 || n.num_layers < 1 || n.hidden_size < 1 ||
      n.ffn_size < 1 || n.ffn_size % kLanes || n.norm_kind < 0 || n.norm_kind > 1 || n.residual < 0 || n.residual > 2 ||
      n.activation < 0 || n.activation > 2) {
    return true;
  }
  const int64_t c = n.hidden_size, heads = a.heads * a.width;
  for (int64_t i = 0; i < n.num_layers; ++i) {
    const ChatglmLayer& layer = n.layers[i];
    if (!is_weight(layer.qkv, heads + 2 * a.kv_heads * a.width, c) ||
        !is_weight(layer.out, c, heads) ||
        !is_weight(layer.up, n.ffn_size * (n.activation == 2 ? 2 : 1), c) ||
        !is_weight(layer.down, c, n.ffn_size)) {
      return true;
    }
  }
  if (f.scores != nullptr && (n.head.rows < 1 || !is_weight(n.head, n.head.rows, c))) return true;
  for (int64_t i = 0; i < a.num_tokens && f.input == nullptr; ++i) {
    if (f.tokens[i] < 0 || f.tokens[i] >= n.embedding.rows) return true;
  }
  for (int64_t i = 0; i < a.num_tokens * a.planes && a.turned; ++i) {
    if (f.positions[i] < 0 || f.positions[i] >= n.num_positions) return true;
  }
  return f.scratch_bytes < Layout(n, a).total * int64_t(sizeof(float));
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// Bytes of the structures of a forward, which Python mirrors.
EXPORT int64_t chatglm_forward_structures() {
  return int64_t(sizeof(ChatglmNetwork) + sizeof(ChatglmForward) + sizeof(ChatglmLayer) +
                 sizeof(ChatglmAttention));
}

// Bytes of scratch memory that a forward of a.num_tokens tokens needs.
EXPORT int64_t chatglm_forward_bytes(const ChatglmNetwork* network, const ChatglmAttention* a) {
  return Layout(*network, *a).total * int64_t(sizeof(float));
}

// Hidden states of the tokens, and scores where asked for; their keys and values are kept. 0, or 1 where an argument is out of
// range. `scratch` is aligned to 64 bytes.
EXPORT int chatglm_forward(const ChatglmNetwork* network, const ChatglmForward* f,
                           const ChatglmAttention* a) {
  if (is_wrong(*network, *f, *a)) return 1;
  Forward forward(*network, *f, *a);
  int64_t products = 0;
  for (int64_t i = 0; i < network->num_layers; ++i) {
    const ChatglmLayer& layer = network->layers[i];
    for (const ChatglmWeight* w : {&layer.qkv, &layer.out, &layer.up, &layer.down}) {
      products += a->num_tokens * w->rows * w->columns;
    }
  }
  if (f->scores != nullptr) products += a->num_tokens * network->head.rows * network->head.columns;
  // A forward of a few microseconds is not worth waking anybody.
  run_in_parallel(forward, products < 1000000 ? 1 : a->num_threads);
  return 0;
}
}
