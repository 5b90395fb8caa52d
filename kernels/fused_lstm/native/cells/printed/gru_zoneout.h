// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruZoneoutCell : PrintedCell {
  static constexpr CellShape shape{.sums = 2, .of_h = 1, .of_x = 1, .saved = 4, .c_is_h = true};
  static constexpr long sums = 3;
  static constexpr long zoneout = 1;
  static constexpr long crossing = 4;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_n_by_h = row.sum(2);
    const auto gate_r = row.sum(0);
    const auto gate_z = row.sum(1);
    const auto gate_n_by_x = row.x(2);
    const auto state_h = row.state(0);
    const auto zoneout = row.zoneout();
    const auto v12 = sigmoid<S>(gate_r);
    const auto v13 = gate_n_by_h * v12;
    const auto v14 = gate_n_by_x + v13;
    const auto v16 = sigmoid<S>(gate_z);
    row.save(0, gate_n_by_h);
    row.save(1, v12);
    row.save(3, v16);
    row.crossing(0) = state_h;
    row.crossing(1) = zoneout;
    row.crossing(2) = v14;
    row.crossing(3) = v16;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto state_h = row.crossing(0);
    const auto zoneout = row.crossing(1);
    const auto v14 = row.crossing(2);
    const auto v16 = row.crossing(3);
    const auto v15 = tanh<S>(v14);
    const auto v17 = state_h - v15;
    const auto v18 = v16 * v17;
    const auto v19 = v15 + v18;
    const auto v20 = state_h - v19;
    const auto v21 = zoneout * v20;
    const auto v22 = v19 + v21;
    row.after(0, v22);
    row.h(v19);
    row.save(2, v15);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto gate_n_by_h = row.saved(0);
    const auto state_h = row.state(0);
    const auto zoneout = row.zoneout();
    const auto dh = row.by_h;
    const auto dstate_h = row.by_after(0);
    const auto v12 = row.saved(1);
    const auto v15 = row.saved(2);
    const auto v16 = row.saved(3);
    const auto v17 = state_h - v15;
    const auto v23 = dh + dstate_h;
    const auto v24 = zoneout * dstate_h;
    const auto v27 = v23 - v24;
    const auto v28 = v16 * v27;
    const auto v29 = v17 * v27;
    const auto v31 = v24 + v28;
    const auto v32 = v27 - v28;
    const auto v33 = S(1.0) - v16;
    const auto v34 = v16 * v33;
    const auto v35 = v29 * v34;
    const auto v36 = v15 * v15;
    const auto v37 = S(1.0) - v36;
    const auto v38 = v32 * v37;
    const auto v39 = v12 * v38;
    const auto v40 = gate_n_by_h * v38;
    const auto v41 = S(1.0) - v12;
    const auto v42 = v12 * v41;
    const auto v43 = v40 * v42;
    row.by_state(0, v31);
    row.by_gate(0, v39);
    row.by_gate(1, v43);
    row.by_gate(2, v35);
    row.by_gate(3, v38);
  }
};

}  // namespace fused_lstm::FL_ISA
