// Printed by fused_lstm.cells.generate from cells/coupled.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct CoupledCell {
  static constexpr CellShape shape{.sums = 3, .saved = 3, .is_lstm = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 3;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 2;

  template <class T>
  FL_INLINE static void step(const CellRow<CoupledCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_i = row.sum(0);
    const Vec<T> gate_g = row.sum(1);
    const Vec<T> gate_o = row.sum(2);
    const Vec<T> state_c = row.state(0);
    const Vec<T> v10 = sigmoid<S>(gate_i);
    const Vec<T> v11 = tanh<S>(gate_g);
    const Vec<T> v12 = sigmoid<S>(gate_o);
    const Vec<T> v13 = S(1.0) - v10;
    const Vec<T> v14 = state_c * v13;
    const Vec<T> v15 = v10 * v11;
    const Vec<T> v16 = v14 + v15;
    row.after(0, v16);
    row.save(0, v10);
    row.save(1, v11);
    row.save(2, v12);
    row.crossing(0) = v12;
    row.crossing(1) = v16;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<CoupledCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> v12 = row.crossing(0);
    const Vec<T> v16 = row.crossing(1);
    const Vec<T> v17 = tanh<S>(v16);
    const Vec<T> v18 = v12 * v17;
    row.h(v18);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<CoupledCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_c = row.state(0);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_c = row.by_after(0);
    const Vec<T> v10 = row.saved(0);
    const Vec<T> v11 = row.saved(1);
    const Vec<T> v12 = row.saved(2);
    const Vec<T> v13 = S(1.0) - v10;
    const Vec<T> v16 = row.after(0);
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
    row.by_state(0, v27);
    row.by_gate(0, v38);
    row.by_gate(1, v36);
    row.by_gate(2, v33);
  }
};

}  // namespace fused_lstm::FL_ISA
