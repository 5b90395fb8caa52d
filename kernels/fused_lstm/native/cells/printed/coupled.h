// Printed by fused_lstm.cells.generate from cells/coupled.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct CoupledCell : PrintedCell {
  static constexpr CellShape shape{.sums = 3, .saved = 3, .is_lstm = true};
  static constexpr long sums = 3;
  static constexpr long crossing = 2;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_i = row.sum(0);
    const auto gate_g = row.sum(1);
    const auto gate_o = row.sum(2);
    const auto state_c = row.state(0);
    const auto v10 = sigmoid<S>(gate_i);
    const auto v11 = tanh<S>(gate_g);
    const auto v12 = sigmoid<S>(gate_o);
    const auto v13 = S(1.0) - v10;
    const auto v14 = state_c * v13;
    const auto v15 = v10 * v11;
    const auto v16 = v14 + v15;
    row.after(0, v16);
    row.save(0, v10);
    row.save(1, v11);
    row.save(2, v12);
    row.crossing(0) = v12;
    row.crossing(1) = v16;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto v12 = row.crossing(0);
    const auto v16 = row.crossing(1);
    const auto v17 = tanh<S>(v16);
    const auto v18 = v12 * v17;
    row.h(v18);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto state_c = row.state(0);
    const auto dh = row.by_h;
    const auto dstate_c = row.by_after(0);
    const auto v10 = row.saved(0);
    const auto v11 = row.saved(1);
    const auto v12 = row.saved(2);
    const auto v13 = S(1.0) - v10;
    const auto v16 = row.after(0);
    const auto v17 = tanh<S>(v16);
    const auto v19 = dh * v12;
    const auto v20 = dh * v17;
    const auto v21 = v17 * v17;
    const auto v22 = S(1.0) - v21;
    const auto v23 = v19 * v22;
    const auto v24 = dstate_c + v23;
    const auto v25 = v10 * v24;
    const auto v26 = v11 * v24;
    const auto v27 = v13 * v24;
    const auto v28 = state_c * v24;
    const auto v30 = v26 - v28;
    const auto v31 = S(1.0) - v12;
    const auto v32 = v12 * v31;
    const auto v33 = v20 * v32;
    const auto v34 = v11 * v11;
    const auto v35 = S(1.0) - v34;
    const auto v36 = v25 * v35;
    const auto v37 = v10 * v13;
    const auto v38 = v30 * v37;
    row.by_state(0, v27);
    row.by_gate(0, v38);
    row.by_gate(1, v36);
    row.by_gate(2, v33);
  }
};

}  // namespace fused_lstm::FL_ISA
