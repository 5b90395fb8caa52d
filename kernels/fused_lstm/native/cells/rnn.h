// nn.RNN's cell: h = tanh(sum), or the sum where it is positive. Of y alone its derivative is known.
#pragma once

#include "cells/step.h"

namespace fused_lstm::FL_ISA {

template <bool TANH, class T>
FL_APART void finish_rnn(const CellStep<T>& step, long unit, long row, long rows, long blocks,
                         Vec<T>* sums) {
  for (long b = row; b < row + rows; ++b) {
    const Sum<T>* const x = step.input_part + b * step.input_stride;
    for (long block = 0; block < blocks; ++block, ++sums) {
      const long at = unit + block * W<T>, width = min(step.hidden - at, W<T>);
      const Vec<T> sum = step.kept(b) ? *sums : load(x + at, width);
      Vec<T> h;
      if constexpr (TANH) {
        h = tanh<Sum<T>>(sum);
      } else {
        h = sum < Vec<T>{} ? Vec<T>{} : sum;  // NaN stays NaN
      }
      store(step.h + b * step.stride + at, h, width);
    }
  }
}

template <bool TANH, class T>
FL_APART void finish_rnn_back(const CellStepBack<T>& step, long first, long row, long rows,
                              long blocks, const Vec<T>* dh) {
  const CellStepBack<T> local = step;  // a copy: what is stored below cannot change it
  for (long b = row; b < row + rows; ++b) {
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, width = local.hidden - unit;
      const Vec<T> h = load(local.h + b * local.stride + unit, width);
      Vec<T> by_sum;
      if constexpr (TANH) {
        by_sum = *dh * (1 - h * h);
      } else {
        by_sum = h > Vec<T>{} ? *dh : Vec<T>{};
      }
      store_block(local.dgates, 0, block, local.line + b, by_sum, width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
