// Printed by fused_lstm.cells.generate from cells/lstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct LstmCell : PrintedCell {
  static constexpr CellShape shape{.sums = 4, .saved = 4, .is_lstm = true};
  static constexpr long sums = 4;
  static constexpr long crossing = 2;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_i = row.sum(0);
    const auto gate_f = row.sum(1);
    const auto gate_g = row.sum(2);
    const auto gate_o = row.sum(3);
    const auto state_c = row.state(0);
    const auto v11 = sigmoid<S>(gate_i);
    const auto v12 = sigmoid<S>(gate_f);
    const auto v13 = tanh<S>(gate_g);
    const auto v14 = sigmoid<S>(gate_o);
    const auto v15 = state_c * v12;
    const auto v16 = v11 * v13;
    const auto v17 = v15 + v16;
    row.after(0, v17);
    row.save(0, v11);
    row.save(1, v12);
    row.save(2, v13);
    row.save(3, v14);
    row.crossing(0) = v14;
    row.crossing(1) = v17;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto v14 = row.crossing(0);
    const auto v17 = row.crossing(1);
    const auto v18 = tanh<S>(v17);
    const auto v19 = v14 * v18;
    row.h(v19);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto state_c = row.state(0);
    const auto dh = row.by_h;
    const auto dstate_c = row.by_after(0);
    const auto v11 = row.saved(0);
    const auto v12 = row.saved(1);
    const auto v13 = row.saved(2);
    const auto v14 = row.saved(3);
    const auto v17 = row.after(0);
    const auto v18 = tanh<S>(v17);
    const auto v20 = dh * v14;
    const auto v21 = dh * v18;
    const auto v22 = v18 * v18;
    const auto v23 = S(1.0) - v22;
    const auto v24 = v20 * v23;
    const auto v25 = dstate_c + v24;
    const auto v26 = v11 * v25;
    const auto v27 = v13 * v25;
    const auto v28 = v12 * v25;
    const auto v29 = state_c * v25;
    const auto v30 = S(1.0) - v14;
    const auto v31 = v14 * v30;
    const auto v32 = v21 * v31;
    const auto v33 = v13 * v13;
    const auto v34 = S(1.0) - v33;
    const auto v35 = v26 * v34;
    const auto v36 = S(1.0) - v12;
    const auto v37 = v12 * v36;
    const auto v38 = v29 * v37;
    const auto v39 = S(1.0) - v11;
    const auto v40 = v11 * v39;
    const auto v41 = v27 * v40;
    row.by_state(0, v28);
    row.by_gate(0, v41);
    row.by_gate(1, v38);
    row.by_gate(2, v35);
    row.by_gate(3, v32);
  }
};

}  // namespace fused_lstm::FL_ISA
