// Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct SlstmCell : PrintedCell {
  static constexpr CellShape shape{.sums = 4, .saved = 5, .states = 3, .in_layers = false};
  static constexpr long sums = 4;
  static constexpr long crossing = 6;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_i = row.sum(0);
    const auto gate_f = row.sum(1);
    const auto gate_z = row.sum(2);
    const auto gate_o = row.sum(3);
    const auto state_c = row.state(0);
    const auto state_n = row.state(1);
    const auto state_m = row.state(2);
    const auto v15 = log_sigmoid<S>(gate_f);
    const auto v16 = state_m + v15;
    const auto v17 = v16 - gate_i;
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const auto v21 = v20 ? v16 : gate_i;
    const auto v23 = v18 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v24 = v17 * v23;
    const auto v29 = tanh<S>(gate_z);
    const auto v34 = sigmoid<S>(gate_o);
    const auto v70 = -gate_f;
    const auto v71 = sigmoid<S>(v70);
    row.after(2, v21);
    row.save(0, v17);
    row.save(2, v29);
    row.save(3, v34);
    row.save(4, v71);
    row.crossing(0) = state_c;
    row.crossing(1) = state_n;
    row.crossing(2) = v17;
    row.crossing(3) = v24;
    row.crossing(4) = v29;
    row.crossing(5) = v34;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto state_c = row.crossing(0);
    const auto state_n = row.crossing(1);
    const auto v17 = row.crossing(2);
    const auto v24 = row.crossing(3);
    const auto v29 = row.crossing(4);
    const auto v34 = row.crossing(5);
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const auto v25 = exp<S>(v24);
    const auto v26 = v20 ? v25 : broadcast(S(1.0));
    const auto v27 = v18 ? broadcast(S(1.0)) : v25;
    const auto v28 = state_c * v27;
    const auto v30 = v26 * v29;
    const auto v31 = v28 + v30;
    const auto v32 = state_n * v27;
    const auto v33 = v26 + v32;
    const auto v35 = v31 / v33;
    const auto v36 = v34 * v35;
    row.after(0, v31);
    row.after(1, v33);
    row.h(v36);
    row.save(1, v25);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto state_c = row.state(0);
    const auto state_n = row.state(1);
    const auto dh = row.by_h;
    const auto dstate_c = row.by_after(0);
    const auto dstate_n = row.by_after(1);
    const auto dstate_m = row.by_after(2);
    const auto v17 = row.saved(0);
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const auto v23 = v18 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v25 = row.saved(1);
    const auto v26 = v20 ? v25 : broadcast(S(1.0));
    const auto v27 = v18 ? broadcast(S(1.0)) : v25;
    const auto v29 = row.saved(2);
    const auto v31 = row.after(0);
    const auto v33 = row.after(1);
    const auto v34 = row.saved(3);
    const auto v35 = v31 / v33;
    const auto v37 = dh * v34;
    const auto v38 = dh * v35;
    const auto v39 = v35 / v33;
    const auto v41 = v37 * v39;
    const auto v43 = v37 / v33;
    const auto v44 = dstate_c + v43;
    const auto v45 = dstate_n - v41;
    const auto v46 = S(1.0) - v34;
    const auto v47 = v34 * v46;
    const auto v48 = v38 * v47;
    const auto v49 = v27 * v45;
    const auto v50 = state_n * v45;
    const auto v51 = v26 * v44;
    const auto v52 = v29 * v44;
    const auto v53 = v45 + v52;
    const auto v54 = v29 * v29;
    const auto v55 = S(1.0) - v54;
    const auto v56 = v51 * v55;
    const auto v57 = v27 * v44;
    const auto v58 = state_c * v44;
    const auto v59 = v50 + v58;
    const auto v60 = v18 ? broadcast(S(0.0)) : v59;
    const auto v61 = v20 ? v53 : broadcast(S(0.0));
    const auto v62 = v60 + v61;
    const auto v63 = v25 * v62;
    const auto v64 = v23 * v63;
    const auto v65 = v20 ? broadcast(S(0.0)) : dstate_m;
    const auto v66 = v20 ? dstate_m : broadcast(S(0.0));
    const auto v68 = v64 + v66;
    const auto v69 = v65 - v64;
    const auto v71 = row.saved(4);
    const auto v72 = v68 * v71;
    row.by_state(0, v57);
    row.by_state(1, v49);
    row.by_state(2, v68);
    row.by_gate(0, v69);
    row.by_gate(1, v72);
    row.by_gate(2, v56);
    row.by_gate(3, v48);
  }
};

}  // namespace fused_lstm::FL_ISA
