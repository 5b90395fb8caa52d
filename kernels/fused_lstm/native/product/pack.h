// Copies weights and activations into panels (see tile.h).
#pragma once

#include "product/blocks.h"
#include "product/transpose.h"

namespace fused_lstm::FL_ISA {

// out[k * stride + lane] = m[lane][k] for k < count, W lanes, of pairs for every even k; m has row
// stride `columns`. Of the lanes, `exist` are rows of m; the others are zero.
template <class T>
void pack_transposed(const T* m, long columns, long exist, long count, T* out, long stride) {
  if constexpr (by_terms<T>) return pack_terms(m, columns, exist, count, out, stride);
  constexpr long most = W<T> * deep<T>;
  for (long k = 0; k < count; k += most) {
    const long width = min(count - k, most);
    Factor<T> rows[W<T>];
    if (exist >= W<T> && width == most) {
      FL_UNROLL for (int lane = 0; lane < W<T>; ++lane) {
        rows[lane] = factors(m + lane * columns + k);
      }
    } else {
      for (int lane = 0; lane < W<T>; ++lane) {
        rows[lane] = lane < exist ? factors(m + lane * columns + k, width) : Factor<T>{};
      }
    }
    transpose_stage<1, T>(rows);
    FL_UNROLL for (int lane = 0; lane < W<T>; ++lane) {
      const long at = lane * deep<T>;
      if (at < width) store_factors(out + (k + at) * stride, rows[lane]);
    }
  }
  for (long k = divide_up(count, deep<T>) * deep<T>; k < whole<T>(count); k += deep<T>) {
    store_factors(out + k * stride, Factor<T>{});
  }
}

// out[k][blocks][gates][W] = w[gate * units + unit][first + k] for so many blocks of units from
// `unit` on, k < count. Units that do not exist are zero.
template <class T>
void pack_gates(const T* w, const WeightShape& shape, long unit, long blocks, long first, long count,
                T* out) {
  const long stride = blocks * shape.gates * W<T>;
  for (long block = 0; block < blocks; ++block, unit += W<T>) {
    for (long gate = 0; gate < shape.gates; ++gate, out += W<T> * deep<T>) {
      pack_transposed(w + (gate * shape.units + unit) * shape.depth + first, shape.depth,
                      shape.units - unit, count, out, stride);
    }
  }
}

// A panel, by its rows of one k.
template <class T>
struct Panel {
  T* data;
  long vectors;

  FL_INLINE void put(long k, long n, Vec<T> v) const {
    if constexpr (by_terms<T>) return put_terms(data + n * W<T>, vectors * W<T>, k, v);
    T* const row = data + k / deep<T> * deep<T> * vectors * W<T>;
    store_part(row + n * W<T> * deep<T>, v, k % deep<T>);
  }
  FL_INLINE void clear(long k) const {
    for (long n = 0; n < vectors; ++n) put(k, n, Vec<T>{});
  }
  FL_INLINE void clear_rest(long k) const {  // up to a whole grain
    for (; k % grain<T>; ++k) clear(k);
  }
};

// panel[at + k][n] = m[rows.begin + k][column + n * W ...]; of the columns, `width` exist.
template <class T>
void pack_rows(const T* m, long stride, Range rows, long column, long width, const Panel<T>& panel,
               long at = 0) {
  for (long row = rows.begin; row < rows.end; ++row, ++at) {
    const T* source = m + row * stride + column;
    for (long n = 0; n < panel.vectors; ++n) {
      panel.put(at, n, load(source + n * W<T>, width - n * W<T>));
    }
  }
}

// The rows of m that blocks of a left-hand factor are multiplied by, from the panel's row `at` on.
template <class T>
void pack_for_blocks(const Blocks<T>& left, Range blocks, const T* m, long stride, long column,
                     long width, const Panel<T>& panel, long at = 0) {
  for (long block = blocks.begin; block < blocks.end; ++block) {
    const long first = left.column(block), count = left.width(block);
    pack_rows(m, stride, {first, first + count}, column, width, panel, at);
    at += count;
    if ((block + 1) % left.in_group()) continue;
    panel.clear_rest(at);
    at = whole<T>(at);
  }
}

}  // namespace fused_lstm::FL_ISA
