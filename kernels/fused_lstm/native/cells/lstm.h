// The LSTM's cell, of four gates or, coupled, of three: the forget gate is then 1 minus the input
// gate.
#pragma once

#include "cells/step.h"

namespace fused_lstm::FL_ISA {

template <class T>
struct Gates {
  Vec<T> i, f, g, o;
};

// What was activated, as it is kept: [GATES][units].
template <int GATES, class T>
FL_INLINE Gates<Sum<T>> load_gates(const T* gates, long units, long width) {
  const auto at = [&](int gate) { return load(gates + gate * units, width); };
  const Vec<T> i = at(0);
  if constexpr (GATES == 3) return {i, 1 - i, at(1), at(2)};
  return {i, at(1), at(2), at(3)};
}

template <int GATES, class T>
FL_INLINE void store_gates(const Gates<Sum<T>>& a, T* gates, long units, long width) {
  store(gates, a.i, width);
  if (GATES == 4) store(gates + units, a.f, width);
  store(gates + (GATES - 2) * units, a.g, width);
  store(gates + (GATES - 1) * units, a.o, width);
}

// Gradients by gates before activation: where these are coupled, by_i has by_f in it.
template <int GATES, class T>
FL_INLINE void store_blocks(const Gates<Sum<T>>& a, const Blocks<T>& blocks, long block, long row,
                            long width) {
  store_block(blocks, 0, block, row, a.i, width);
  if (GATES == 4) store_block(blocks, 1, block, row, a.f, width);
  store_block(blocks, GATES - 2, block, row, a.g, width);
  store_block(blocks, GATES - 1, block, row, a.o, width);
}

// From sums to activated gates; o stays a sum.
template <int GATES, class T>
FL_INLINE Gates<Sum<T>> activate_all_but_o(Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> o) {
  i = sigmoid<Sum<T>>(i);
  return {i, GATES == 4 ? sigmoid<Sum<T>>(f) : 1 - i, tanh<Sum<T>>(g), o};
}

template <int GATES, class T>
FL_INLINE Gates<Sum<T>> activate(Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> o) {
  return activate_all_but_o<GATES, T>(i, f, g, sigmoid<Sum<T>>(o));
}

// Gradients by the gates before activation; dc becomes the gradient by the cell state before.
template <int GATES, class T>
FL_INLINE Gates<T> gate_gradients(const Gates<T>& a, Vec<T> c, Vec<T> c_next, Vec<T> dh,
                                  Vec<T>& dc) {
  const Vec<T> tanh_c = tanh<T>(c_next);
  const Vec<T> dc_next = dc + dh * a.o * (1 - tanh_c * tanh_c);
  dc = dc_next * a.f;
  const Vec<T> through_i = GATES == 4 ? a.g : a.g - c;
  return {dc_next * through_i * a.i * (1 - a.i), dc_next * c * a.f * (1 - a.f),
          dc_next * a.i * (1 - a.g * a.g), dh * tanh_c * a.o * (1 - a.o)};
}

template <int GATES, class T>
FL_APART void finish_lstm(const CellStep<T>& step, long unit, long row, long rows, long,
                          Vec<T>* sums) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  // Two loops: the tanh of c waits for all of a row's gates, and rows do not wait for each other.
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * GATES;
    Vec<T> c = load(step.c + b * hidden + unit, width);
    if (!step.kept(b)) {
      const Sum<T>* const x = step.input_part + b * step.input_stride + unit;
      for (int gate = 0; gate < GATES; ++gate) sum[gate] = load(x + gate * hidden, width);
      c = Vec<T>{};
    }
    const Gates<Sum<T>> a = activate<GATES, T>(sum[0], sum[1], sum[GATES - 2], sum[GATES - 1]);
    if (step.gates) {
      store_gates<GATES>(a, step.gates + b * GATES * hidden + unit, hidden, width);
    }
    sum[0] = a.f * c + a.i * a.g;
    sum[1] = a.o;
  }
  for (long r = 0; r < rows; ++r) {
    const Vec<T> c = sums[r * GATES];
    store(step.c_next + (row + r) * hidden + unit, c, width);
    store(step.h + (row + r) * step.stride + unit, sums[r * GATES + 1] * tanh<Sum<T>>(c), width);
  }
}

template <int GATES, class T>
FL_APART void finish_lstm_back(const CellStepBack<T>& step, long first, long row, long rows,
                               long blocks, const Vec<T>* dh) {
  const CellStepBack<T> local = step;  // a copy: what is stored below cannot change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    const Sum<T>* const before = local.before(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, at = b * hidden + unit, width = hidden - unit;
      const Vec<T> c = kept ? load(before + unit, width) : Vec<T>{};
      Vec<T> dc = load(local.dc + at, width);
      const Gates<Sum<T>> a =
          load_gates<GATES>(local.gates + b * GATES * hidden + unit, hidden, width);
      const Gates<Sum<T>> da =
          gate_gradients<GATES, Sum<T>>(a, c, load(local.c_next + at, width), *dh, dc);
      store(local.dc + at, kept ? dc : Vec<T>{}, width);
      store_blocks<GATES>(da, local.dgates, block, local.line + b, width);
    }
  }
}

// --- the operators `cell` and `cell_backward` ---

template <class T>
FL_INLINE Gates<T> activated(const T* gates, long units, long width) {
  const Gates<T> a = load_gates<4>(gates, units, width);
  return activate<4, T>(a.i, a.f, a.g, a.o);
}

template <class T>
void cell(const Worker& worker, long batch, long hidden, const T* gates, const T* c, T* h,
          T* c_next) {
  const Range rows = part(batch, worker.id, worker.count);
  for (long row = rows.begin; row < rows.end; ++row) {
    for (long unit = 0; unit < hidden; unit += W<T>) {
      const long at = row * hidden + unit, width = hidden - unit;
      const Gates<T> a = activated(gates + row * 4 * hidden + unit, hidden, width);
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
      const Gates<T> a = activated(gates + row * 4 * hidden + unit, hidden, width);
      Vec<T> d = load(dc_next + at, width);
      const Gates<T> da = gate_gradients<4, T>(a, load(c + at, width), load(c_next + at, width),
                                               load(dh + at, width), d);
      store_gates<4>(da, dgates + row * 4 * hidden + unit, hidden, width);
      store(dc + at, d, width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
