// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_gru(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  const long unit = first;
  const long width = min(hidden - unit, W<T>);
  const Lane<T>& lane = *step.lane;
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    const S* const before = step.c + b * hidden + unit;
    const S* const x = step.input_part + b * step.input_stride + unit;
    const bool kept = step.kept(b);
    if (!kept) {
      sum[0] = load(x, width);
      sum[1] = load(x + hidden, width);
      sum[2] = lane.b_m ? load(lane.b_m + unit, width) : Vec<T>{};
    }
    const Vec<T> gate_n_by_h = sum[2];
    const Vec<T> gate_r = sum[0];
    const Vec<T> gate_z = sum[1];
    const Vec<T> gate_n_by_x = load(x + 2 * hidden, width);
    const Vec<T> state_h = kept ? load(before, width) : Vec<T>{};
    const Vec<T> v11 = sigmoid<S>(gate_r);
    const Vec<T> v12 = gate_n_by_h * v11;
    const Vec<T> v13 = gate_n_by_x + v12;
    const Vec<T> v15 = sigmoid<S>(gate_z);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates, gate_n_by_h, width);
      store(gates + hidden, v11, width);
      store(gates + 3 * hidden, v15, width);
    }
    sum[0] = state_h;
    sum[1] = v13;
    sum[2] = v15;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    S* const after = step.c_next + b * hidden + unit;
    const Vec<T> state_h = sum[0];
    const Vec<T> v13 = sum[1];
    const Vec<T> v15 = sum[2];
    const Vec<T> v14 = tanh<S>(v13);
    const Vec<T> v16 = state_h - v14;
    const Vec<T> v17 = v15 * v16;
    const Vec<T> v18 = v14 + v17;
    store(after, v18, width);
    store(step.h + b * step.stride + unit, v18, width);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates + 2 * hidden, v14, width);
    }
  }
}

template <class T>
FL_APART void finish_gru_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
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
      const Vec<T> gate_n_by_h = load(gates, width);
      const Vec<T> state_h = kept ? load(before, width) : Vec<T>{};
      const Vec<T> by_h = *dh;
      const Vec<T> dstate_h = load(running, width);
      const Vec<T> v11 = load(gates + hidden, width);
      const Vec<T> v14 = load(gates + 2 * hidden, width);
      const Vec<T> v15 = load(gates + 3 * hidden, width);
      const Vec<T> v16 = state_h - v14;
      const Vec<T> v19 = by_h + dstate_h;
      const Vec<T> v20 = v15 * v19;
      const Vec<T> v21 = v16 * v19;
      const Vec<T> v23 = v19 - v20;
      const Vec<T> v24 = S(1.0) - v15;
      const Vec<T> v25 = v15 * v24;
      const Vec<T> v26 = v21 * v25;
      const Vec<T> v27 = v14 * v14;
      const Vec<T> v28 = S(1.0) - v27;
      const Vec<T> v29 = v23 * v28;
      const Vec<T> v30 = v11 * v29;
      const Vec<T> v31 = gate_n_by_h * v29;
      const Vec<T> v32 = S(1.0) - v11;
      const Vec<T> v33 = v11 * v32;
      const Vec<T> v34 = v31 * v33;
      store(running, kept ? v20 : Vec<T>{}, width);
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v30), width);
      store_block(local.dgates, 1, block, local.line + b, Vec<T>(v34), width);
      store_block(local.dgates, 2, block, local.line + b, Vec<T>(v26), width);
      store_block(local.dgates, 3, block, local.line + b, Vec<T>(v29), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
