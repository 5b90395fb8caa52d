// Copies weights and activations into panels (see tile.h).
#pragma once

#include <utility>  // integer_sequence: a type, no code

#include "isa/shapes.h"

namespace fused_lstm::FL_ISA {

// Lanes whose index has bit S from one vector, the others from its partner S lanes away.
template <int S, class V, int... LANE>
FL_INLINE void exchange(V& a, V& b, std::integer_sequence<int, LANE...>) {
  constexpr int n = sizeof...(LANE);
#if defined(__clang__) || __GNUC__ >= 12
  const V low = __builtin_shufflevector(a, b, (LANE & S ? n + LANE - S : LANE)...);
  b = __builtin_shufflevector(a, b, (LANE & S ? n + LANE : LANE + S)...);
#else
  typedef decltype(a < b) Index;
  const V low = __builtin_shuffle(a, b, Index{(LANE & S ? n + LANE - S : LANE)...});
  b = __builtin_shuffle(a, b, Index{(LANE & S ? n + LANE : LANE + S)...});
#endif
  a = low;
}

template <int S, class T>
FL_INLINE void transpose_stage(Vec<T> (&rows)[W<T>]) {
  FL_UNROLL for (int i = 0; i < W<T>; ++i) {
    if (!(i & S)) exchange<S>(rows[i], rows[i + S], std::make_integer_sequence<int, W<T>>{});
  }
  if constexpr (2 * S < W<T>) transpose_stage<2 * S, T>(rows);
}

// out[k * stride + lane] = m[lane][k] for k < count, W lanes; m has row stride `columns`. Of the
// lanes, `exist` are rows of m; the others are zero.
template <class T>
void pack_transposed(const T* m, long columns, long exist, long count, T* out, long stride) {
  for (long k = 0; k < count; k += W<T>) {
    const long width = min(count - k, W<T>);
    Vec<T> rows[W<T>];
    if (exist >= W<T> && width == W<T>) {
      FL_UNROLL for (int lane = 0; lane < W<T>; ++lane) rows[lane] = load(m + lane * columns + k);
    } else {
      for (int lane = 0; lane < W<T>; ++lane) {
        rows[lane] = lane < exist ? load(m + lane * columns + k, width) : Vec<T>{};
      }
    }
    transpose_stage<1, T>(rows);
    FL_UNROLL for (int lane = 0; lane < W<T>; ++lane) {
      if (lane < width) store(out + (k + lane) * stride, rows[lane]);
    }
  }
}

// out[k][4][W] = w[gate * H + unit][first + k] for the W units from `unit` on, k < count;
// w is [4H, inputs]. Units from H on are zero.
template <class T>
void pack_gates(const T* w, long hidden, long inputs, long unit, long first, long count, T* out) {
  for (int gate = 0; gate < 4; ++gate) {
    pack_transposed(w + (gate * hidden + unit) * inputs + first, inputs, hidden - unit, count,
                    out + gate * W<T>, 4 * W<T>);
  }
}

// out[k][vectors][W] = m[first + k][column ...] for k < count; of the columns, `width` exist.
template <class T>
void pack_columns(const T* m, long stride, long first, long count, long column, long width,
                  long vectors, T* out) {
  for (long k = 0; k < count; ++k) {
    const T* source = m + (first + k) * stride + column;
    for (long n = 0; n < vectors; ++n) {
      store(out + (k * vectors + n) * W<T>, load(source + n * W<T>, width - n * W<T>));
    }
  }
}

}  // namespace fused_lstm::FL_ISA
