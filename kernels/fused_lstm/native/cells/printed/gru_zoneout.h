// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/functions.h"
#include "cells/zoneout.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_APART void finish_gru_zoneout(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  const long unit = first;
  const long width = min(hidden - unit, W<T>);
  const Lane<T>& lane = *step.lane;
  Vec<T> more[32][1];
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
    const Vec<T> zoneout = part_kept<T>(lane.options ? &lane.options->zoneout_h : nullptr, lane, step.place, b, unit);
    const Vec<T> v12 = sigmoid<S>(gate_r);
    const Vec<T> v13 = gate_n_by_h * v12;
    const Vec<T> v14 = gate_n_by_x + v13;
    const Vec<T> v16 = sigmoid<S>(gate_z);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates, gate_n_by_h, width);
      store(gates + hidden, v12, width);
      store(gates + 3 * hidden, v16, width);
    }
    sum[0] = state_h;
    sum[1] = zoneout;
    sum[2] = v14;
    more[r][0] = v16;
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + r * 3;
    S* const after = step.c_next + b * hidden + unit;
    const Vec<T> state_h = sum[0];
    const Vec<T> zoneout = sum[1];
    const Vec<T> v14 = sum[2];
    const Vec<T> v16 = more[r][0];
    const Vec<T> v15 = tanh<S>(v14);
    const Vec<T> v17 = state_h - v15;
    const Vec<T> v18 = v16 * v17;
    const Vec<T> v19 = v15 + v18;
    const Vec<T> v20 = state_h - v19;
    const Vec<T> v21 = zoneout * v20;
    const Vec<T> v22 = v19 + v21;
    store(after, v22, width);
    if (lane.options) leave_made<T>(step, b, unit, v19); else store(step.h + b * step.stride + unit, v19, width);
    if (step.gates) {
      T* const gates = step.gates + b * 4 * hidden + unit;
      store(gates + 2 * hidden, v15, width);
    }
  }
}

template <class T>
FL_APART void finish_gru_zoneout_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh) {
  using S = Sum<T>;
  const CellStepBack<T> local = step;  // a copy: stores do not change it
  const long hidden = local.hidden;
  const Lane<T>& lane = *local.lane;
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
      const Vec<T> zoneout = part_kept<T>(lane.options ? &lane.options->zoneout_h : nullptr, lane, local.place, b, unit);
      const Vec<T> by_h = *dh;
      const Vec<T> dstate_h = load(running, width);
      const Vec<T> v12 = load(gates + hidden, width);
      const Vec<T> v15 = load(gates + 2 * hidden, width);
      const Vec<T> v16 = load(gates + 3 * hidden, width);
      const Vec<T> v17 = state_h - v15;
      const Vec<T> v23 = by_h + dstate_h;
      const Vec<T> v24 = zoneout * dstate_h;
      const Vec<T> v27 = v23 - v24;
      const Vec<T> v28 = v16 * v27;
      const Vec<T> v29 = v17 * v27;
      const Vec<T> v31 = v24 + v28;
      const Vec<T> v32 = v27 - v28;
      const Vec<T> v33 = S(1.0) - v16;
      const Vec<T> v34 = v16 * v33;
      const Vec<T> v35 = v29 * v34;
      const Vec<T> v36 = v15 * v15;
      const Vec<T> v37 = S(1.0) - v36;
      const Vec<T> v38 = v32 * v37;
      const Vec<T> v39 = v12 * v38;
      const Vec<T> v40 = gate_n_by_h * v38;
      const Vec<T> v41 = S(1.0) - v12;
      const Vec<T> v42 = v12 * v41;
      const Vec<T> v43 = v40 * v42;
      store(running, kept ? v31 : Vec<T>{}, width);
      store_block(local.dgates, 0, block, local.line + b, Vec<T>(v39), width);
      store_block(local.dgates, 1, block, local.line + b, Vec<T>(v43), width);
      store_block(local.dgates, 2, block, local.line + b, Vec<T>(v35), width);
      store_block(local.dgates, 3, block, local.line + b, Vec<T>(v38), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
