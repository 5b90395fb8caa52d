// Printed by fused_lstm.cells.generate from cells/gru_dreamer.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruDreamerCell : PrintedCell {
  static constexpr CellShape shape{.sums = 3, .saved = 4, .c_is_h = true, .in_layers = false};
  static constexpr long sums = 3;
  static constexpr long crossing = 3;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_r = row.sum(0);
    const auto gate_a = row.sum(1);
    const auto gate_u = row.sum(2);
    const auto state_h = row.state(0);
    const auto v10 = sigmoid<S>(gate_r);
    const auto v11 = gate_a * v10;
    const auto v13 = gate_u - S(1.0);
    const auto v14 = sigmoid<S>(v13);
    row.save(0, gate_a);
    row.save(1, v10);
    row.save(3, v14);
    row.crossing(0) = state_h;
    row.crossing(1) = v11;
    row.crossing(2) = v14;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto state_h = row.crossing(0);
    const auto v11 = row.crossing(1);
    const auto v14 = row.crossing(2);
    const auto v12 = tanh<S>(v11);
    const auto v15 = v12 - state_h;
    const auto v16 = v14 * v15;
    const auto v17 = state_h + v16;
    row.after(0, v17);
    row.h(v17);
    row.save(2, v12);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto gate_a = row.saved(0);
    const auto state_h = row.state(0);
    const auto dh = row.by_h;
    const auto dstate_h = row.by_after(0);
    const auto v10 = row.saved(1);
    const auto v12 = row.saved(2);
    const auto v14 = row.saved(3);
    const auto v15 = v12 - state_h;
    const auto v18 = dh + dstate_h;
    const auto v19 = v14 * v18;
    const auto v20 = v15 * v18;
    const auto v22 = v18 - v19;
    const auto v23 = S(1.0) - v14;
    const auto v24 = v14 * v23;
    const auto v25 = v20 * v24;
    const auto v26 = v12 * v12;
    const auto v27 = S(1.0) - v26;
    const auto v28 = v19 * v27;
    const auto v29 = v10 * v28;
    const auto v30 = gate_a * v28;
    const auto v31 = S(1.0) - v10;
    const auto v32 = v10 * v31;
    const auto v33 = v30 * v32;
    row.by_state(0, v22);
    row.by_gate(0, v33);
    row.by_gate(1, v29);
    row.by_gate(2, v25);
  }
};

}  // namespace fused_lstm::FL_ISA
