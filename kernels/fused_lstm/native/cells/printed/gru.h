// Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruCell : PrintedCell {
  static constexpr CellShape shape{.sums = 2, .of_h = 1, .of_x = 1, .saved = 4, .c_is_h = true};
  static constexpr long sums = 3;
  static constexpr long crossing = 3;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_n_by_h = row.sum(2);
    const auto gate_r = row.sum(0);
    const auto gate_z = row.sum(1);
    const auto gate_n_by_x = row.x(2);
    const auto state_h = row.state(0);
    const auto v11 = sigmoid<S>(gate_r);
    const auto v12 = gate_n_by_h * v11;
    const auto v13 = gate_n_by_x + v12;
    const auto v15 = sigmoid<S>(gate_z);
    row.save(0, gate_n_by_h);
    row.save(1, v11);
    row.save(3, v15);
    row.crossing(0) = state_h;
    row.crossing(1) = v13;
    row.crossing(2) = v15;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto state_h = row.crossing(0);
    const auto v13 = row.crossing(1);
    const auto v15 = row.crossing(2);
    const auto v14 = tanh<S>(v13);
    const auto v16 = state_h - v14;
    const auto v17 = v15 * v16;
    const auto v18 = v14 + v17;
    row.after(0, v18);
    row.h(v18);
    row.save(2, v14);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto gate_n_by_h = row.saved(0);
    const auto state_h = row.state(0);
    const auto dh = row.by_h;
    const auto dstate_h = row.by_after(0);
    const auto v11 = row.saved(1);
    const auto v14 = row.saved(2);
    const auto v15 = row.saved(3);
    const auto v16 = state_h - v14;
    const auto v19 = dh + dstate_h;
    const auto v20 = v15 * v19;
    const auto v21 = v16 * v19;
    const auto v23 = v19 - v20;
    const auto v24 = S(1.0) - v15;
    const auto v25 = v15 * v24;
    const auto v26 = v21 * v25;
    const auto v27 = v14 * v14;
    const auto v28 = S(1.0) - v27;
    const auto v29 = v23 * v28;
    const auto v30 = v11 * v29;
    const auto v31 = gate_n_by_h * v29;
    const auto v32 = S(1.0) - v11;
    const auto v33 = v11 * v32;
    const auto v34 = v31 * v33;
    row.by_state(0, v20);
    row.by_gate(0, v30);
    row.by_gate(1, v34);
    row.by_gate(2, v26);
    row.by_gate(3, v29);
  }
};

}  // namespace fused_lstm::FL_ISA
