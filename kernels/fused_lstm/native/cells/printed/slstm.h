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
    const auto v17 = state_n == S(0.0);
    const auto v19 = v17 ? broadcast(S(-__builtin_inf())) : v16;
    const auto v20 = v19 - gate_i;
    const auto v21 = v20 > S(0.0);
    const auto v22 = v21 ? v19 : gate_i;
    const auto v24 = v21 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v25 = v20 * v24;
    const auto v30 = tanh<S>(gate_z);
    const auto v35 = sigmoid<S>(gate_o);
    const auto v72 = -gate_f;
    const auto v73 = sigmoid<S>(v72);
    row.after(2, v22);
    row.save(0, v20);
    row.save(2, v30);
    row.save(3, v35);
    row.save(4, v73);
    row.crossing(0) = state_c;
    row.crossing(1) = state_n;
    row.crossing(2) = v20;
    row.crossing(3) = v25;
    row.crossing(4) = v30;
    row.crossing(5) = v35;
  }

  template <class S, class Row>
  FL_INLINE static void finish(const Row& row) {
    const auto state_c = row.crossing(0);
    const auto state_n = row.crossing(1);
    const auto v20 = row.crossing(2);
    const auto v25 = row.crossing(3);
    const auto v30 = row.crossing(4);
    const auto v35 = row.crossing(5);
    const auto v21 = v20 > S(0.0);
    const auto v26 = exp<S>(v25);
    const auto v27 = v21 ? v26 : broadcast(S(1.0));
    const auto v28 = v21 ? broadcast(S(1.0)) : v26;
    const auto v29 = state_c * v28;
    const auto v31 = v27 * v30;
    const auto v32 = v29 + v31;
    const auto v33 = state_n * v28;
    const auto v34 = v27 + v33;
    const auto v36 = v32 / v34;
    const auto v37 = v35 * v36;
    row.after(0, v32);
    row.after(1, v34);
    row.h(v37);
    row.save(1, v26);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto state_c = row.state(0);
    const auto state_n = row.state(1);
    const auto dh = row.by_h;
    const auto dstate_c = row.by_after(0);
    const auto dstate_n = row.by_after(1);
    const auto dstate_m = row.by_after(2);
    const auto v17 = state_n == S(0.0);
    const auto v20 = row.saved(0);
    const auto v21 = v20 > S(0.0);
    const auto v24 = v21 ? broadcast(S(-1.0)) : broadcast(S(1.0));
    const auto v26 = row.saved(1);
    const auto v27 = v21 ? v26 : broadcast(S(1.0));
    const auto v28 = v21 ? broadcast(S(1.0)) : v26;
    const auto v30 = row.saved(2);
    const auto v32 = row.after(0);
    const auto v34 = row.after(1);
    const auto v35 = row.saved(3);
    const auto v36 = v32 / v34;
    const auto v38 = dh * v35;
    const auto v39 = dh * v36;
    const auto v40 = v36 / v34;
    const auto v42 = v38 * v40;
    const auto v44 = v38 / v34;
    const auto v45 = dstate_c + v44;
    const auto v46 = dstate_n - v42;
    const auto v47 = S(1.0) - v35;
    const auto v48 = v35 * v47;
    const auto v49 = v39 * v48;
    const auto v50 = v28 * v46;
    const auto v51 = state_n * v46;
    const auto v52 = v27 * v45;
    const auto v53 = v30 * v45;
    const auto v54 = v46 + v53;
    const auto v55 = v30 * v30;
    const auto v56 = S(1.0) - v55;
    const auto v57 = v52 * v56;
    const auto v58 = v28 * v45;
    const auto v59 = state_c * v45;
    const auto v60 = v51 + v59;
    const auto v61 = v21 ? broadcast(S(0.0)) : v60;
    const auto v62 = v21 ? v54 : broadcast(S(0.0));
    const auto v63 = v61 + v62;
    const auto v64 = v26 * v63;
    const auto v65 = v24 * v64;
    const auto v66 = v21 ? broadcast(S(0.0)) : dstate_m;
    const auto v67 = v21 ? dstate_m : broadcast(S(0.0));
    const auto v69 = v65 + v67;
    const auto v70 = v66 - v65;
    const auto v71 = v17 ? broadcast(S(0.0)) : v69;
    const auto v73 = row.saved(4);
    const auto v74 = v71 * v73;
    row.by_state(0, v58);
    row.by_state(1, v50);
    row.by_state(2, v71);
    row.by_gate(0, v70);
    row.by_gate(1, v74);
    row.by_gate(2, v57);
    row.by_gate(3, v49);
  }
};

}  // namespace fused_lstm::FL_ISA
