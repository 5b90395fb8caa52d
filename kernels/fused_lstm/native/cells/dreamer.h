// DreamerV3's GRU: h = u n + (1 - u) h, n = tanh(r a), u = sigmoid(sum - 1), where a is all of n's
// sum, x's part too. A tile's sums are r, a, u. The state c is h before it is rounded. What is kept of
// a step is r, a, u, n.
#pragma once

#include "cells/step.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_dreamer(const CellStep<T>& step, long unit, long row, long rows, long,
                             Vec<T>* sums) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  // Two loops, as in finish_gru: n waits for r, and rows do not wait for each other.
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + 3 * r;
    if (!step.kept(b)) {
      const Sum<T>* const x = step.input_part + b * step.input_stride + unit;
      for (int gate = 0; gate < 3; ++gate) sum[gate] = load(x + gate * hidden, width);
    }
    const Vec<T> reset = sigmoid<Sum<T>>(sum[0]), update = sigmoid<Sum<T>>(sum[2] - 1);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates, reset, width);
      store(gates + hidden, sum[1], width);
      store(gates + 2 * hidden, update, width);
    }
    sum[0] = reset * sum[1];
    sum[1] = update;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    const Vec<T> c = step.kept(b) ? load(step.c + b * hidden + unit, width) : Vec<T>{};
    const Vec<T> n = tanh<Sum<T>>(sums[3 * r]), update = sums[3 * r + 1];
    if (step.gates) store(step.gates + (b * 4 + 3) * hidden + unit, n, width);
    const Vec<T> next = c + update * (n - c);
    store(step.c_next + b * hidden + unit, next, width);
    store(step.h + b * step.stride + unit, next, width);
  }
}

template <class T>
FL_APART void finish_dreamer_back(const CellStepBack<T>& step, long first, long row, long rows,
                                  long blocks, const Vec<T>* dh) {
  const CellStepBack<T> local = step;  // a copy: what is stored below cannot change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, at = b * hidden + unit, width = hidden - unit;
      const auto gate = [&](int k) { return load(local.gates + (b * 4 + k) * hidden + unit, width); };
      const Vec<T> r = gate(0), a = gate(1), u = gate(2), n = gate(3);
      const Vec<T> c = kept ? load(local.before(b) + unit, width) : Vec<T>{};
      const Vec<T> by = load(local.dc + at, width) + *dh, by_n = by * u * (1 - n * n);
      store(local.dc + at, kept ? by * (1 - u) : Vec<T>{}, width);
      const long line = local.line + b;
      store_block(local.dgates, 0, block, line, Vec<T>(by_n * a * r * (1 - r)), width);
      store_block(local.dgates, 1, block, line, Vec<T>(by_n * r), width);
      store_block(local.dgates, 2, block, line, Vec<T>(by * (n - c) * u * (1 - u)), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
