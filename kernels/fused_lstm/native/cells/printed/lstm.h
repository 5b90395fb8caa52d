// Printed by fused_lstm.cells.generate from cells/lstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct LstmCell {
  static constexpr CellShape shape{.sums = 4, .saved = 4, .is_lstm = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 4;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 2;

  template <class T>
  FL_INLINE static void step(const CellRow<LstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_i = row.sum(0);
    const Vec<T> gate_f = row.sum(1);
    const Vec<T> gate_g = row.sum(2);
    const Vec<T> gate_o = row.sum(3);
    const Vec<T> state_c = row.state(0);
    const Vec<T> v11 = sigmoid<S>(gate_i);
    const Vec<T> v12 = sigmoid<S>(gate_f);
    const Vec<T> v13 = tanh<S>(gate_g);
    const Vec<T> v14 = sigmoid<S>(gate_o);
    const Vec<T> v15 = state_c * v12;
    const Vec<T> v16 = v11 * v13;
    const Vec<T> v17 = v15 + v16;
    row.after(0, v17);
    row.save(0, v11);
    row.save(1, v12);
    row.save(2, v13);
    row.save(3, v14);
    row.crossing(0) = v14;
    row.crossing(1) = v17;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<LstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> v14 = row.crossing(0);
    const Vec<T> v17 = row.crossing(1);
    const Vec<T> v18 = tanh<S>(v17);
    const Vec<T> v19 = v14 * v18;
    row.h(v19);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<LstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_c = row.state(0);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_c = row.by_after(0);
    const Vec<T> v11 = row.saved(0);
    const Vec<T> v12 = row.saved(1);
    const Vec<T> v13 = row.saved(2);
    const Vec<T> v14 = row.saved(3);
    const Vec<T> v17 = row.after(0);
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
    row.by_state(0, v28);
    row.by_gate(0, v41);
    row.by_gate(1, v38);
    row.by_gate(2, v35);
    row.by_gate(3, v32);
  }
};

}  // namespace fused_lstm::FL_ISA
