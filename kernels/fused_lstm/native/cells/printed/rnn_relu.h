// Printed by fused_lstm.cells.generate from cells/rnn.py. Do not edit.
#pragma once

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_rnn_relu(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  for (long b = row, r = 0; b < row + rows; ++b) {
    for (long block = 0; block < blocks; ++block, ++r) {
      const long unit = first + block * W<T>, width = min(hidden - unit, W<T>);
      Vec<T>* const sum = sums + r;
      const S* const x = step.input_part + b * step.input_stride + unit;
      const bool kept = step.kept(b);
      if (!kept) {
        sum[0] = load(x, width);
      }
      const Vec<T> gate_a = sum[0];
      const Vec<T> v6 = relu<S>(gate_a);
      store(step.h + b * step.stride + unit, v6, width);
    }
  }
}

template <class T>
FL_APART void finish_rnn_relu_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
  using S = Sum<T>;
  const CellStepBack<T> local = step;  // a copy: stores do not change it
  const long hidden = local.hidden;
  for (long b = row; b < row + rows; ++b) {
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>;
      const long width = hidden - unit;
      const Vec<T> by_h = *dh;
      const Vec<T> v6 = load(local.h + b * local.stride + unit, width);
      const auto v7 = v6 <= S(0.0);
      const Vec<T> v8 = v7 ? broadcast(S(0.0)) : by_h;
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v8), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
