// A layer's backward pass: one product a step with the cell's pointwise backward done on each tile
// while it is in registers; then the gradients of weights and input as large products.
//
// dgates, by the gates before activation, is kept in blocks (see blocks.h), row t * B + b: it is
// a factor row by row in dh = dgates R and dx = dgates W, transposed in dR = dgates' h and
// dW = dgates' x.
#pragma once

#include "steps_forward.h"

namespace fused_lstm::FL_ISA {

template <class T>
long dgates_size(long rows, long hidden) {
  return Blocks<T>::size(4, hidden, rows);
}

template <class T>
FL_INLINE Blocks<T> dgates_of(const Layer<T>& layer, const LayerGradient<T>& gradient) {
  return {gradient.dgates, 4, layer.hidden, layer.steps * layer.batch};
}

// The columns of weight [4H, columns], in panels of at most plain_tile.vectors vectors.
template <class T>
void pack_weight_columns(const Worker& worker, const T* weight, long hidden, long columns,
                         T* packed) {
  const long vectors = blocks_of<T>(columns), panels = divide_up(vectors, plain_tile.vectors);
  const Range mine = part(4 * hidden, worker.id, worker.count);
  for (long i = 0; i < panels; ++i) {
    const Range own = part(vectors, i, panels);
    const long n = own.end - own.begin, column = own.begin * W<T>;
    T* panel = packed + own.begin * 4 * hidden * W<T>;
    pack_columns(weight, columns, mine.begin, mine.end - mine.begin, column, columns - column, n,
                 panel + mine.begin * n * W<T>);
  }
}

// --- a step: dh from the next step's dgates, then this step's dgates ---

// What is left of a step for a tile of dgates R, row by row by units from vector `first` on.
template <class T, int R, int N>
FL_INLINE void finish_step_back(const Layer<T>& layer, const LayerGradient<T>& gradient, long t,
                                const Blocks<T>& dgates, long first, long row,
                                Tile<T, R, N>& dh) {
  const long hidden = layer.hidden, size = layer.batch * hidden, unit = first * W<T>;
  const long corner = row * hidden + unit, width = hidden - unit;
  if (t >= 0 && gradient.dy) add(dh, gradient.dy + t * size + corner, hidden, width);
  if (t + 1 == layer.steps && gradient.dh_n) add(dh, gradient.dh_n + corner, hidden, width);
  if (t < 0) return store(dh, gradient.dh0 + corner, hidden, width);
  const T* c_before = t > 0 ? layer.c + (t - 1) * size : layer.c0;
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      const long at = corner + r * hidden + n * W<T>, exist = width - n * W<T>;
      const long line = t * layer.batch + row + r, block = first + n;
      const T* activated = layer.gates + line * 4 * hidden + block * W<T>;
      Vec<T> dc = load(gradient.dc0 + at, exist);
      const Gates<T> da =
          gate_gradients<T>(load_gates(activated, hidden, exist), load(c_before + at, exist),
                            load(layer.c + t * size + at, exist), dh.sum[r][n], dc);
      store(gradient.dc0 + at, dc, exist);
      store(dgates.at(block, line), da.i);
      store(dgates.at(block + dgates.in_group(), line), da.f);
      store(dgates.at(block + 2 * dgates.in_group(), line), da.g);
      store(dgates.at(block + 3 * dgates.in_group(), line), da.o);
    }
  }
}

// tile = dgates[line + row ..] * packed, for this worker's plain tiles of `batch` rows by `vectors`
// columns; then body(tile, first, row), `first` being the tile's first vector. A panel is read by
// every tile in parts, so that it comes from the L2 cache; between parts the sums lie in `sums`.
template <class T, class Body>
FL_INLINE void for_step_back_tiles(const Worker& worker, const Blocks<T>& dgates, long line,
                                   long batch, long vectors, const T* packed, bool backwards,
                                   T* sums, const Body& body) {
  const long depth = dgates.column(dgates.count());
  const bool cached = vectors * depth * FL_BYTES <= worker.count * cached_bytes;
  for_shares(worker, batch, vectors, plain_tile.vectors, plain_tile.rows, backwards,
             [&](const Share& share) {
    const long lanes = share.vectors * W<T>, size = lanes * depth;
    const T* panel = packed + share.first * depth * W<T>;
    const bool last = backwards ? share.first == 0 : share.first + share.vectors == vectors;
    const T* next_panel = cached || last ? nullptr : backwards ? panel - size : panel + size;
    const long bytes = share.vectors * depth * FL_BYTES;
    const long parts = batch > panel_rows ? 1 : parts_of(bytes, step_bytes);
    for (long i = 0; i < parts; ++i) {
      const Range range = part(dgates.count(), i, parts);
      const T* here = panel + dgates.column(range.begin) * lanes;
      const T* next = panel + dgates.column(range.end) * lanes;
      const long count = next - here;
      if (i + 1 == parts) next = next_panel;
      for_tiles(share, {0, batch}, [&](auto height, auto width, long row) {
        constexpr int R = decltype(height)::value, N = decltype(width)::value;
        Tile<T, R, N> tile;
        T* const kept = sums + row * lanes;
        clear(tile);
        Ahead<T> ahead;
        if (next && !cached) ahead = ahead_of(next, count, row, R, batch, range.end - range.begin);
        multiply_blocks(tile, dgates, line + row, range, here, ahead);
        if (i > 0) add(tile, kept, lanes, lanes);
        if (i + 1 < parts) {
          store(tile, kept, lanes, lanes);
        } else {
          Tile<T, R, N> made = tile;
          body(made, share.first, row);
        }
      });
    }
  });
}

// t = -1 is the step before the first, where there is only dh0.
template <class T>
void one_step_back(const Worker& worker, const Layer<T>& layer, const LayerGradient<T>& gradient,
                   long t, const Blocks<T>& dgates, const T* packed, T* sums) {
  const Blocks<T> nothing{nullptr, 0, dgates.units, 0};
  const Blocks<T>& next = t + 1 < layer.steps ? dgates : nothing;
  for_step_back_tiles(worker, next, (t + 1) * layer.batch, layer.batch, dgates.in_group(), packed,
                      t % 2, sums, [&](auto& dh, long first, long row) {
    finish_step_back(layer, gradient, t, dgates, first, row, dh);
  });
}

// db = the sum of dgates' rows, a block and a range of rows at a time.
template <class T>
FL_INLINE void bias_gradient(const Blocks<T>& dgates, long block, Range rows, T* db) {
  const long width = dgates.width(block);
  T* target = db + dgates.column(block);
  Vec<T> total = rows.begin > 0 ? load(target, width) : Vec<T>{};
  for (long row = rows.begin; row < rows.end; ++row) total += load(dgates.at(block, row));
  store(target, total, width);
}

// What is left when every step's dgates are known: the gradients by the weights and biases.
template <class T>
void weight_gradients(const Worker& worker, const Layer<T>& layer,
                      const LayerGradient<T>& gradient, const Blocks<T>& dgates, T* panel) {
  const long hidden = layer.hidden, batch = layer.batch;
  transposed_product(
      worker, dgates, layer.inputs, gradient.dw_ih, panel,
      [&](Range n, long column, long vectors, T* out) {
        pack_columns(layer.x, layer.inputs, n.begin, n.end - n.begin, column,
                     layer.inputs - column, vectors, out);
      },
      [&](long block, Range n) {
        if (gradient.db) bias_gradient(dgates, block, n, gradient.db);
      });
  transposed_product(
      worker, dgates, hidden, gradient.dw_hh, panel,
      [&](Range n, long column, long vectors, T* out) {
        const long width = hidden - column;  // rows of h0, then of y
        const long split = n.begin < batch ? min(n.end, batch) : n.begin;
        pack_columns(layer.h0, hidden, n.begin, split - n.begin, column, width, vectors, out);
        pack_columns(layer.y, hidden, split - batch, n.end - split, column, width, vectors,
                     out + (split - n.begin) * vectors * W<T>);
      },
      [](long, Range) {});
}

template <class T>
void backward(const Worker& worker, const Layer<T>& layer, const LayerGradient<T>& gradient,
              const Scratch<T>& scratch) {
  const Blocks<T> dgates = dgates_of(layer, gradient);
  T* const panel = panel_of(worker, scratch.panels);
  pack_weight_columns(worker, layer.w_hh, layer.hidden, layer.hidden, scratch.recurrent);
  for (long t = layer.steps - 1; t >= -1; --t) {
    worker.sync();
    one_step_back(worker, layer, gradient, t, dgates, scratch.recurrent, panel);
  }
  if (gradient.dx) {
    product(worker, dgates, layer.w_ih, layer.inputs, false, gradient.dx, panel);
  }
  weight_gradients(worker, layer, gradient, dgates, panel);
}

}  // namespace fused_lstm::FL_ISA
