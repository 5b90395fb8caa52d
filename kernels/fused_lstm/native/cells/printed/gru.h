// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruCell {
  static constexpr CellShape shape{.sums = 2, .of_h = 1, .of_x = 1, .saved = 4, .c_is_h = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 3;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 3;

  template <class T>
  FL_INLINE static void step(const CellRow<GruCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_n_by_h = row.sum(2);
    const Vec<T> gate_r = row.sum(0);
    const Vec<T> gate_z = row.sum(1);
    const Vec<T> gate_n_by_x = row.x(2);
    const Vec<T> state_h = row.state(0);
    const Vec<T> v11 = sigmoid<S>(gate_r);
    const Vec<T> v12 = gate_n_by_h * v11;
    const Vec<T> v13 = gate_n_by_x + v12;
    const Vec<T> v15 = sigmoid<S>(gate_z);
    row.save(0, gate_n_by_h);
    row.save(1, v11);
    row.save(3, v15);
    row.crossing(0) = state_h;
    row.crossing(1) = v13;
    row.crossing(2) = v15;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<GruCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_h = row.crossing(0);
    const Vec<T> v13 = row.crossing(1);
    const Vec<T> v15 = row.crossing(2);
    const Vec<T> v14 = tanh<S>(v13);
    const Vec<T> v16 = state_h - v14;
    const Vec<T> v17 = v15 * v16;
    const Vec<T> v18 = v14 + v17;
    row.after(0, v18);
    row.h(v18);
    row.save(2, v14);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<GruCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_n_by_h = row.saved(0);
    const Vec<T> state_h = row.state(0);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_h = row.by_after(0);
    const Vec<T> v11 = row.saved(1);
    const Vec<T> v14 = row.saved(2);
    const Vec<T> v15 = row.saved(3);
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
    row.by_state(0, v20);
    row.by_gate(0, v30);
    row.by_gate(1, v34);
    row.by_gate(2, v26);
    row.by_gate(3, v29);
  }
};

}  // namespace fused_lstm::FL_ISA
