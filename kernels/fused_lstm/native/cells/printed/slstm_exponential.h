// Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct SlstmExponentialCell : PrintedCell {
  static constexpr CellShape shape{.sums = 4, .saved = 4, .states = 3, .in_layers = false};
  static constexpr long sums = 4;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_i = row.sum(0);
    const auto gate_f = row.sum(1);
    const auto gate_z = row.sum(2);
    const auto gate_o = row.sum(3);
    const auto state_c = row.state(0);
    const auto state_n = row.state(1);
    const auto state_m = row.state(2);
    const auto v15 = gate_f + state_m;
    const auto v16 = v15 - gate_i;
    const auto v17 = v16 > S(0.0);
    const auto v18 = state_n != S(0.0);
    const auto v19 = v17 & v18;
    const auto v20 = v19 ? v15 : gate_i;
    const auto v22 = v17 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v23 = v16 * v22;
    const auto v24 = exp<S>(v23);
    const auto v25 = v19 ? v24 : broadcast(S(1.0));
    const auto v26 = v17 ? broadcast(S(1.0)) : v24;
    const auto v27 = state_c * v26;
    const auto v28 = tanh<S>(gate_z);
    const auto v29 = v25 * v28;
    const auto v30 = v27 + v29;
    const auto v31 = state_n * v26;
    const auto v32 = v25 + v31;
    const auto v33 = sigmoid<S>(gate_o);
    const auto v34 = v30 / v32;
    const auto v35 = v33 * v34;
    row.after(0, v30);
    row.after(1, v32);
    row.after(2, v20);
    row.h(v35);
    row.save(0, v16);
    row.save(1, v24);
    row.save(2, v28);
    row.save(3, v33);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto state_c = row.state(0);
    const auto state_n = row.state(1);
    const auto dh = row.by_h;
    const auto dstate_c = row.by_after(0);
    const auto dstate_n = row.by_after(1);
    const auto dstate_m = row.by_after(2);
    const auto v16 = row.saved(0);
    const auto v17 = v16 > S(0.0);
    const auto v18 = state_n != S(0.0);
    const auto v19 = v17 & v18;
    const auto v22 = v17 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v24 = row.saved(1);
    const auto v25 = v19 ? v24 : broadcast(S(1.0));
    const auto v26 = v17 ? broadcast(S(1.0)) : v24;
    const auto v28 = row.saved(2);
    const auto v30 = row.after(0);
    const auto v32 = row.after(1);
    const auto v33 = row.saved(3);
    const auto v34 = v30 / v32;
    const auto v36 = dh * v33;
    const auto v37 = dh * v34;
    const auto v38 = v34 / v32;
    const auto v40 = v36 * v38;
    const auto v42 = v36 / v32;
    const auto v43 = dstate_c + v42;
    const auto v44 = dstate_n - v40;
    const auto v45 = S(1.0) - v33;
    const auto v46 = v33 * v45;
    const auto v47 = v37 * v46;
    const auto v48 = v26 * v44;
    const auto v49 = state_n * v44;
    const auto v50 = v25 * v43;
    const auto v51 = v28 * v43;
    const auto v52 = v44 + v51;
    const auto v53 = v28 * v28;
    const auto v54 = S(1.0) - v53;
    const auto v55 = v50 * v54;
    const auto v56 = v26 * v43;
    const auto v57 = state_c * v43;
    const auto v58 = v49 + v57;
    const auto v59 = v17 ? broadcast(S(0.0)) : v58;
    const auto v60 = v19 ? v52 : broadcast(S(0.0));
    const auto v61 = v59 + v60;
    const auto v62 = v24 * v61;
    const auto v63 = v22 * v62;
    const auto v64 = v19 ? broadcast(S(0.0)) : dstate_m;
    const auto v65 = v19 ? dstate_m : broadcast(S(0.0));
    const auto v67 = v63 + v65;
    const auto v68 = v64 - v63;
    row.by_state(0, v56);
    row.by_state(1, v48);
    row.by_state(2, v67);
    row.by_gate(0, v68);
    row.by_gate(1, v67);
    row.by_gate(2, v55);
    row.by_gate(3, v47);
  }
};

}  // namespace fused_lstm::FL_ISA
