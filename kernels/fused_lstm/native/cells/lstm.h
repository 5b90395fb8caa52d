// The LSTM's cell: all of a step but its products. Forwards it is handed the sums of a product's
// tile by the four gates, backwards those of dh, and knows nothing of how they were made.
#pragma once

#include "product/blocks.h"

namespace fused_lstm::FL_ISA {

template <class T>
struct Gates {
  Vec<T> i, f, g, o;
};

template <class T>
FL_INLINE Gates<Sum<T>> load_gates(const T* gates, long hidden, long width) {
  return {load(gates, width), load(gates + hidden, width), load(gates + 2 * hidden, width),
          load(gates + 3 * hidden, width)};
}

template <class T>
FL_INLINE void store_gates(const Gates<Sum<T>>& a, T* gates, long hidden, long width) {
  store(gates, a.i, width);
  store(gates + hidden, a.f, width);
  store(gates + 2 * hidden, a.g, width);
  store(gates + 3 * hidden, a.o, width);
}

template <class T>
FL_INLINE void store_blocks(const Gates<Sum<T>>& a, const Blocks<T>& blocks, long block, long row,
                            long width) {
  store_left(blocks.at(block, row), a.i, width);
  store_left(blocks.at(block + blocks.in_group(), row), a.f, width);
  store_left(blocks.at(block + 2 * blocks.in_group(), row), a.g, width);
  store_left(blocks.at(block + 3 * blocks.in_group(), row), a.o, width);
}

template <class T>
FL_INLINE Gates<T> activate(const Gates<T>& gates) {
  return {sigmoid<T>(gates.i), sigmoid<T>(gates.f), tanh<T>(gates.g), sigmoid<T>(gates.o)};
}

// Gradients by the gates before activation; dc becomes the gradient by the cell state before.
template <class T>
FL_INLINE Gates<T> gate_gradients(const Gates<T>& a, Vec<T> c, Vec<T> c_next, Vec<T> dh,
                                  Vec<T>& dc) {
  const Vec<T> tanh_c = tanh<T>(c_next);
  const Vec<T> dc_next = dc + dh * a.o * (1 - tanh_c * tanh_c);
  dc = dc_next * a.f;
  return {dc_next * a.g * a.i * (1 - a.i), dc_next * c * a.f * (1 - a.f),
          dc_next * a.i * (1 - a.g * a.g), dh * tanh_c * a.o * (1 - a.o)};
}

// --- a step of a lane; b is a row of the batch ---

template <class T>
struct CellStep {
  const Lane<T>* lane;
  long place;
  long hidden;
  const bool* keep;     // [B], false where the state before is 0, or null
  const Sum<T>* c;      // [B, H] before
  const Sum<T>* input_part;  // [B, 4H] of the gates; may be `gates`
  T* gates;             // [B, 4H] activated, or null
  Sum<T>* c_next;       // [B, H]
  T* h;                 // [B, H], a row every `stride`
  long stride;
};

// Of a cell that has more than nn.LSTM's: see added.h.
template <class T>
void finish_added(const CellStep<T>& step, long unit, long row, long rows,
                  const Vec<T> (*sums)[4]);

// `sums`: all of the gates before activation, of R rows by the units of a block.
template <class T, int R>
FL_INLINE void finish_cell(const CellStep<T>& step, long unit, long row,
                           const Tile<T, R, 4>& sums) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  Tile<T, R, 4> made = sums;
  if (step.lane->added) return finish_added(step, unit, row, R, made.sum);
  // Two loops: the tanh of c waits for all of a row's gates, and rows do not wait for each other.
  for (int r = 0; r < R; ++r) {
    Vec<T>(&sum)[4] = made.sum[r];
    const long at = (row + r) * 4 * hidden + unit;
    Gates<Sum<T>> a = {sum[0], sum[1], sum[2], sum[3]};
    Vec<T> c = load(step.c + (row + r) * hidden + unit, width);
    if (step.keep && !step.keep[row + r]) {
      a = load_gates(step.input_part + at, hidden, width);
      c = Vec<T>{};
    }
    a = activate(a);
    if (step.gates) store_gates(a, step.gates + at, hidden, width);
    sum[0] = a.f * c + a.i * a.g;
    sum[1] = a.o;
  }
  for (int r = 0; r < R; ++r) {
    const Vec<T> c = made.sum[r][0];
    store(step.c_next + (row + r) * hidden + unit, c, width);
    store(step.h + (row + r) * step.stride + unit, made.sum[r][1] * tanh<Sum<T>>(c), width);
  }
}

template <class T>
struct CellStepBack {
  const Lane<T>* lane;
  long place;
  long hidden;
  const bool* keep;   // [B], as above
  const T* gates;     // [B, 4H] activated
  const Sum<T>* c;    // [B, H] before, of the first `continued` rows,
  const Sum<T>* c0;   // and of the others, which begin here
  long continued;
  const Sum<T>* c_next;  // [B, H]
  Sum<T>* dc;         // [B, H], by c_next; then by c
  Blocks<T> dgates;   // row b is its row `line` + b
  long line;
};

template <class T>
void finish_added_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks,
                       const Vec<T>* dh);

// `dh`: the gradients by h, of R rows by the units of N blocks from `first` on.
template <class T, int R, int N>
FL_INLINE void finish_cell_back(const CellStepBack<T>& step, long first, long row,
                                const Tile<T, R, N>& dh) {
  const long hidden = step.hidden;
  const Blocks<T>& dgates = step.dgates;
  if (step.lane->added) return finish_added_back(step, first, row, R, N, dh.sum[0]);
  for (int r = 0; r < R; ++r) {
    const long b = row + r;
    const bool kept = !step.keep || step.keep[b];
    const Sum<T>* const before = (b < step.continued ? step.c : step.c0) + b * hidden;
    for (int n = 0; n < N; ++n) {
      const long block = first + n, unit = block * W<T>, at = b * hidden + unit;
      const long width = hidden - unit;
      const Vec<T> c = kept ? load(before + unit, width) : Vec<T>{};
      Vec<T> dc = load(step.dc + at, width);
      const Gates<Sum<T>> a = load_gates(step.gates + b * 4 * hidden + unit, hidden, width);
      const Gates<Sum<T>> da =
          gate_gradients<Sum<T>>(a, c, load(step.c_next + at, width), dh.sum[r][n], dc);
      store(step.dc + at, kept ? dc : Vec<T>{}, width);
      store_blocks(da, dgates, block, step.line + b, width);
    }
  }
}

// --- the operators `cell` and `cell_backward` ---

template <class T>
void cell(const Worker& worker, long batch, long hidden, const T* gates, const T* c, T* h,
          T* c_next) {
  const Range rows = part(batch, worker.id, worker.count);
  for (long row = rows.begin; row < rows.end; ++row) {
    for (long unit = 0; unit < hidden; unit += W<T>) {
      const long at = row * hidden + unit, width = hidden - unit;
      const Gates<T> a = activate(load_gates(gates + row * 4 * hidden + unit, hidden, width));
      const Vec<T> next = a.f * load(c + at, width) + a.i * a.g;
      store(c_next + at, next, width);
      store(h + at, a.o * tanh<T>(next), width);
    }
  }
}

template <class T>
void cell_backward(const Worker& worker, long batch, long hidden, const T* gates, const T* c,
                   const T* c_next, const T* dh, const T* dc_next, T* dgates, T* dc) {
  const Range rows = part(batch, worker.id, worker.count);
  for (long row = rows.begin; row < rows.end; ++row) {
    for (long unit = 0; unit < hidden; unit += W<T>) {
      const long at = row * hidden + unit, width = hidden - unit;
      const Gates<T> a = activate(load_gates(gates + row * 4 * hidden + unit, hidden, width));
      Vec<T> d = load(dc_next + at, width);
      const Gates<T> da = gate_gradients<T>(a, load(c + at, width), load(c_next + at, width),
                                            load(dh + at, width), d);
      store_gates(da, dgates + row * 4 * hidden + unit, hidden, width);
      store(dc + at, d, width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
