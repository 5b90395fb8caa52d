// The gates of an LSTM's cell, four or, coupled, three: the forget gate is then 1 minus the input gate.
// Here are the operators `cell` and `cell_backward`, and what cells with options are made of; the plain
// cells are printed (see printed/).
#pragma once

#include "cells/step.h"

namespace fused_lstm::FL_ISA {

template <class T>
struct Gates {
  Vec<T> i, f, g, o;
};

// Stores activated gates as the backward reads them: [GATES][units].
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
template <class T>
FL_INLINE Gates<T> gate_gradients(const Gates<T>& a, Vec<T> c, Vec<T> c_next, Vec<T> dh,
                                  Vec<T>& dc) {
  const Vec<T> tanh_c = tanh<T>(c_next);
  const Vec<T> dc_next = dc + dh * a.o * (1 - tanh_c * tanh_c);
  dc = dc_next * a.f;
  return {dc_next * a.g * a.i * (1 - a.i), dc_next * c * a.f * (1 - a.f),
          dc_next * a.i * (1 - a.g * a.g), dh * tanh_c * a.o * (1 - a.o)};
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
      const Gates<T> da = gate_gradients<T>(a, load(c + at, width), load(c_next + at, width),
                                               load(dh + at, width), d);
      store_gates<4>(da, dgates + row * 4 * hidden + unit, hidden, width);
      store(dc + at, d, width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
