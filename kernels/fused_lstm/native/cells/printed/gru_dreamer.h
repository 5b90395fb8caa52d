// Printed by fused_lstm.cells.generate from cells/gru_dreamer.py. Do not edit.
#pragma once

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_gru_dreamer(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  const long unit = first;
  const long width = min(hidden - unit, W<T>);
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    const S* const before = step.c + b * hidden + unit;
    const S* const x = step.input_part + b * step.input_stride + unit;
    const bool kept = step.kept(b);
    if (!kept) {
      sum[0] = load(x, width);
      sum[1] = load(x + hidden, width);
      sum[2] = load(x + 2 * hidden, width);
    }
    const Vec<T> gate_r = sum[0];
    const Vec<T> gate_a = sum[1];
    const Vec<T> gate_u = sum[2];
    const Vec<T> state_h = kept ? load(before, width) : Vec<T>{};
    const Vec<T> v10 = sigmoid<S>(gate_r);
    const Vec<T> v11 = gate_a * v10;
    const Vec<T> v13 = gate_u - S(1.0);
    const Vec<T> v14 = sigmoid<S>(v13);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates, gate_a, width);
      store(gates + hidden, v10, width);
      store(gates + 3 * hidden, v14, width);
    }
    sum[0] = state_h;
    sum[1] = v11;
    sum[2] = v14;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    S* const after = step.c_next + b * hidden + unit;
    const Vec<T> state_h = sum[0];
    const Vec<T> v11 = sum[1];
    const Vec<T> v14 = sum[2];
    const Vec<T> v12 = tanh<S>(v11);
    const Vec<T> v15 = v12 - state_h;
    const Vec<T> v16 = v14 * v15;
    const Vec<T> v17 = state_h + v16;
    store(after, v17, width);
    store(step.h + b * step.stride + unit, v17, width);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates + 2 * hidden, v12, width);
    }
  }
}

template <class T>
FL_APART void finish_gru_dreamer_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
  using S = Sum<T>;
  const CellStepBack<T> local = step;  // a copy: stores do not change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>;
      const long width = hidden - unit;
      const T* const gates = local.gates + b * 4 * hidden + unit;
      const S* const begin = b < local.continued ? local.c : local.c0;
      const S* const before = begin + b * hidden + unit;
      S* const running = local.dc + b * hidden + unit;
      const Vec<T> gate_a = load(gates, width);
      const Vec<T> state_h = kept ? load(before, width) : Vec<T>{};
      const Vec<T> by_h = *dh;
      const Vec<T> dstate_h = load(running, width);
      const Vec<T> v10 = load(gates + hidden, width);
      const Vec<T> v12 = load(gates + 2 * hidden, width);
      const Vec<T> v14 = load(gates + 3 * hidden, width);
      const Vec<T> v15 = v12 - state_h;
      const Vec<T> v18 = by_h + dstate_h;
      const Vec<T> v19 = v14 * v18;
      const Vec<T> v20 = v15 * v18;
      const Vec<T> v22 = v18 - v19;
      const Vec<T> v23 = S(1.0) - v14;
      const Vec<T> v24 = v14 * v23;
      const Vec<T> v25 = v20 * v24;
      const Vec<T> v26 = v12 * v12;
      const Vec<T> v27 = S(1.0) - v26;
      const Vec<T> v28 = v19 * v27;
      const Vec<T> v29 = v10 * v28;
      const Vec<T> v30 = gate_a * v28;
      const Vec<T> v31 = S(1.0) - v10;
      const Vec<T> v32 = v10 * v31;
      const Vec<T> v33 = v30 * v32;
      store(running, kept ? v22 : Vec<T>{}, width);
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v33), width);
      store_block(local.dgates, 1, block, local.line + b, Vec<T>(v29), width);
      store_block(local.dgates, 2, block, local.line + b, Vec<T>(v25), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
