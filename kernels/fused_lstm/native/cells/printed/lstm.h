// Printed by fused_lstm.cells.generate from cells/lstm.py. Do not edit.
#pragma once

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_lstm(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  const long unit = first;
  const long width = min(hidden - unit, W<T>);
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 4;
    S* const after = step.c_next + b * hidden + unit;
    const S* const before = step.c + b * hidden + unit;
    const S* const x = step.input_part + b * step.input_stride + unit;
    const bool kept = step.kept(b);
    if (!kept) {
      sum[0] = load(x, width);
      sum[1] = load(x + hidden, width);
      sum[2] = load(x + 2 * hidden, width);
      sum[3] = load(x + 3 * hidden, width);
    }
    const Vec<T> gate_i = sum[0];
    const Vec<T> gate_f = sum[1];
    const Vec<T> gate_g = sum[2];
    const Vec<T> gate_o = sum[3];
    const Vec<T> state_c = kept ? load(before, width) : Vec<T>{};
    const Vec<T> v11 = sigmoid<S>(gate_i);
    const Vec<T> v12 = sigmoid<S>(gate_f);
    const Vec<T> v13 = tanh<S>(gate_g);
    const Vec<T> v14 = sigmoid<S>(gate_o);
    const Vec<T> v15 = state_c * v12;
    const Vec<T> v16 = v11 * v13;
    const Vec<T> v17 = v15 + v16;
    store(after, v17, width);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates, v11, width);
      store(gates + hidden, v12, width);
      store(gates + 2 * hidden, v13, width);
      store(gates + 3 * hidden, v14, width);
    }
    sum[0] = v14;
    sum[1] = v17;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 4;
    const Vec<T> v14 = sum[0];
    const Vec<T> v17 = sum[1];
    const Vec<T> v18 = tanh<S>(v17);
    const Vec<T> v19 = v14 * v18;
    store(step.h + b * step.stride + unit, v19, width);
  }
}

template <class T>
FL_APART void finish_lstm_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
  using S = Sum<T>;
  const CellStepBack<T> local = step;  // a copy: stores do not change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>;
      const long width = hidden - unit;
      const T* const gates = local.gates + b * 4 * hidden + unit;
      const S* const after = local.c_next + b * hidden + unit;
      const S* const begin = b < local.continued ? local.c : local.c0;
      const S* const before = begin + b * hidden + unit;
      S* const running = local.dc + b * hidden + unit;
      const Vec<T> state_c = kept ? load(before, width) : Vec<T>{};
      const Vec<T> by_h = *dh;
      const Vec<T> dstate_c = load(running, width);
      const Vec<T> v11 = load(gates, width);
      const Vec<T> v12 = load(gates + hidden, width);
      const Vec<T> v13 = load(gates + 2 * hidden, width);
      const Vec<T> v14 = load(gates + 3 * hidden, width);
      const Vec<T> v17 = load(after, width);
      const Vec<T> v18 = tanh<S>(v17);
      const Vec<T> v20 = by_h * v14;
      const Vec<T> v21 = by_h * v18;
      const Vec<T> v22 = v18 * v18;
      const Vec<T> v23 = S(1.0) - v22;
      const Vec<T> v24 = v20 * v23;
      const Vec<T> v25 = dstate_c + v24;
      const Vec<T> v26 = v11 * v25;
      const Vec<T> v27 = v13 * v25;
      const Vec<T> v28 = v12 * v25;
      const Vec<T> v29 = state_c * v25;
      const Vec<T> v30 = S(1.0) - v14;
      const Vec<T> v31 = v14 * v30;
      const Vec<T> v32 = v21 * v31;
      const Vec<T> v33 = v13 * v13;
      const Vec<T> v34 = S(1.0) - v33;
      const Vec<T> v35 = v26 * v34;
      const Vec<T> v36 = S(1.0) - v12;
      const Vec<T> v37 = v12 * v36;
      const Vec<T> v38 = v29 * v37;
      const Vec<T> v39 = S(1.0) - v11;
      const Vec<T> v40 = v11 * v39;
      const Vec<T> v41 = v27 * v40;
      store(running, kept ? v28 : Vec<T>{}, width);
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v41), width);
      store_block(local.dgates, 1, block, local.line + b, Vec<T>(v38), width);
      store_block(local.dgates, 2, block, local.line + b, Vec<T>(v35), width);
      store_block(local.dgates, 3, block, local.line + b, Vec<T>(v32), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
