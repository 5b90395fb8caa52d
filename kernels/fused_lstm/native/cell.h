// A cell's pointwise work on vectors, and the operators `cell` and `cell_backward`.
#pragma once

#include "args.h"
#include "tile.h"

namespace fused_lstm::FL_ISA {

template <class T>
struct Gates {
  Vec<T> i, f, g, o;
};

template <class T>
FL_INLINE Gates<T> load_gates(const T* gates, long hidden, long width) {
  return {load(gates, width), load(gates + hidden, width), load(gates + 2 * hidden, width),
          load(gates + 3 * hidden, width)};
}

template <class T>
FL_INLINE void store_gates(const Gates<T>& a, T* gates, long hidden, long width) {
  store(gates, a.i, width);
  store(gates + hidden, a.f, width);
  store(gates + 2 * hidden, a.g, width);
  store(gates + 3 * hidden, a.o, width);
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
