// Printed by fused_lstm.cells.generate from cells/coupled.py. Do not edit.
#pragma once

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_coupled(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  const long unit = first;
  const long width = min(hidden - unit, W<T>);
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    S* const after = step.c_next + b * hidden + unit;
    const S* const before = step.c + b * hidden + unit;
    const S* const x = step.input_part + b * step.input_stride + unit;
    const bool kept = step.kept(b);
    if (!kept) {
      sum[0] = load(x, width);
      sum[1] = load(x + hidden, width);
      sum[2] = load(x + 2 * hidden, width);
    }
    const Vec<T> gate_i = sum[0];
    const Vec<T> gate_g = sum[1];
    const Vec<T> gate_o = sum[2];
    const Vec<T> state_c = kept ? load(before, width) : Vec<T>{};
    const Vec<T> v10 = sigmoid<S>(gate_i);
    const Vec<T> v11 = tanh<S>(gate_g);
    const Vec<T> v12 = sigmoid<S>(gate_o);
    const Vec<T> v13 = S(1.0) - v10;
    const Vec<T> v14 = state_c * v13;
    const Vec<T> v15 = v10 * v11;
    const Vec<T> v16 = v14 + v15;
    store(after, v16, width);
    if (step.gates) {
      T* const gates = step.gates + b * 3 * hidden + unit;
      store(gates, v10, width);
      store(gates + hidden, v11, width);
      store(gates + 2 * hidden, v12, width);
    }
    sum[0] = v12;
    sum[1] = v16;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    const Vec<T> v12 = sum[0];
    const Vec<T> v16 = sum[1];
    const Vec<T> v17 = tanh<S>(v16);
    const Vec<T> v18 = v12 * v17;
    store(step.h + b * step.stride + unit, v18, width);
  }
}

template <class T>
FL_APART void finish_coupled_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
  using S = Sum<T>;
  const CellStepBack<T> local = step;  // a copy: stores do not change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>;
      const long width = hidden - unit;
      const T* const gates = local.gates + b * 3 * hidden + unit;
      const S* const after = local.c_next + b * hidden + unit;
      const S* const begin = b < local.continued ? local.c : local.c0;
      const S* const before = begin + b * hidden + unit;
      S* const running = local.dc + b * hidden + unit;
      const Vec<T> state_c = kept ? load(before, width) : Vec<T>{};
      const Vec<T> by_h = *dh;
      const Vec<T> dstate_c = load(running, width);
      const Vec<T> v10 = load(gates, width);
      const Vec<T> v11 = load(gates + hidden, width);
      const Vec<T> v12 = load(gates + 2 * hidden, width);
      const Vec<T> v13 = S(1.0) - v10;
      const Vec<T> v16 = load(after, width);
      const Vec<T> v17 = tanh<S>(v16);
      const Vec<T> v19 = by_h * v12;
      const Vec<T> v20 = by_h * v17;
      const Vec<T> v21 = v17 * v17;
      const Vec<T> v22 = S(1.0) - v21;
      const Vec<T> v23 = v19 * v22;
      const Vec<T> v24 = dstate_c + v23;
      const Vec<T> v25 = v10 * v24;
      const Vec<T> v26 = v11 * v24;
      const Vec<T> v27 = v13 * v24;
      const Vec<T> v28 = state_c * v24;
      const Vec<T> v30 = v26 - v28;
      const Vec<T> v31 = S(1.0) - v12;
      const Vec<T> v32 = v12 * v31;
      const Vec<T> v33 = v20 * v32;
      const Vec<T> v34 = v11 * v11;
      const Vec<T> v35 = S(1.0) - v34;
      const Vec<T> v36 = v25 * v35;
      const Vec<T> v37 = v10 * v13;
      const Vec<T> v38 = v30 * v37;
      store(running, kept ? v27 : Vec<T>{}, width);
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v38), width);
      store_block(local.dgates, 1, block, local.line + b, Vec<T>(v36), width);
      store_block(local.dgates, 2, block, local.line + b, Vec<T>(v33), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
