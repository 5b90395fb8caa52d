// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruZoneoutCell {
  static constexpr CellShape shape{.sums = 2, .of_h = 1, .of_x = 1, .saved = 4, .c_is_h = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 3;
  static constexpr bool zoneout = true;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 4;

  template <class T>
  FL_INLINE static void step(const CellRow<GruZoneoutCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_n_by_h = row.sum(2);
    const Vec<T> gate_r = row.sum(0);
    const Vec<T> gate_z = row.sum(1);
    const Vec<T> gate_n_by_x = row.x(2);
    const Vec<T> state_h = row.state(0);
    const Vec<T> zoneout = row.zoneout();
    const Vec<T> v12 = sigmoid<S>(gate_r);
    const Vec<T> v13 = gate_n_by_h * v12;
    const Vec<T> v14 = gate_n_by_x + v13;
    const Vec<T> v16 = sigmoid<S>(gate_z);
    row.save(0, gate_n_by_h);
    row.save(1, v12);
    row.save(3, v16);
    row.crossing(0) = state_h;
    row.crossing(1) = zoneout;
    row.crossing(2) = v14;
    row.crossing(3) = v16;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<GruZoneoutCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_h = row.crossing(0);
    const Vec<T> zoneout = row.crossing(1);
    const Vec<T> v14 = row.crossing(2);
    const Vec<T> v16 = row.crossing(3);
    const Vec<T> v15 = tanh<S>(v14);
    const Vec<T> v17 = state_h - v15;
    const Vec<T> v18 = v16 * v17;
    const Vec<T> v19 = v15 + v18;
    const Vec<T> v20 = state_h - v19;
    const Vec<T> v21 = zoneout * v20;
    const Vec<T> v22 = v19 + v21;
    row.after(0, v22);
    row.h(v19);
    row.save(2, v15);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<GruZoneoutCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_n_by_h = row.saved(0);
    const Vec<T> state_h = row.state(0);
    const Vec<T> zoneout = row.zoneout();
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_h = row.by_after(0);
    const Vec<T> v12 = row.saved(1);
    const Vec<T> v15 = row.saved(2);
    const Vec<T> v16 = row.saved(3);
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
    row.by_state(0, v31);
    row.by_gate(0, v39);
    row.by_gate(1, v43);
    row.by_gate(2, v35);
    row.by_gate(3, v38);
  }
};

}  // namespace fused_lstm::FL_ISA
