// nn.GRU's cell: gates m, r, z, n in the places of i, f, g, o, where m is what h makes of n; the state
// c is h before it is rounded.
#pragma once

#include "cells/lstm.h"

namespace fused_lstm::FL_ISA {

// Gates before activation -> h. Activates and leaves them; leaves the next c.
template <class T>
FL_INLINE Vec<T> gru_cell(const CellStep<T>& step, long b, long unit, const Gates<Sum<T>>& a,
                          Vec<T> c) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  const Vec<T> m = a.i, r = sigmoid<Sum<T>>(a.f), z = sigmoid<Sum<T>>(a.g);
  const Vec<T> n = tanh<Sum<T>>(a.o + r * m), next = n + z * (c - n);
  if (step.gates) {
    store_gates<T>(Gates<Sum<T>>{m, r, z, n}, step.gates + b * 4 * hidden + unit, hidden, width);
  }
  store(step.c_next + b * hidden + unit, next, width);
  return next;
}

// Gradients by the gates before activation; dc becomes the gradient by the h before.
template <class T>
FL_INLINE Gates<T> gru_gradients(const Gates<T>& a, Vec<T> c, Vec<T> dh, Vec<T>& dc) {
  const Vec<T> m = a.i, r = a.f, z = a.g, n = a.o, by = dc + dh;
  const Vec<T> by_n = by * (1 - z) * (1 - n * n);
  dc = by * z;
  return {by_n * r, by_n * m * r * (1 - r), by * (c - n) * z * (1 - z), by_n};
}

}  // namespace fused_lstm::FL_ISA
