// Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct SlstmCell {
  static constexpr CellShape shape{.sums = 4, .saved = 5, .states = 3, .in_layers = false};
  static constexpr long phase = 0;
  static constexpr long sums = 4;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 6;

  template <class T>
  FL_INLINE static void step(const CellRow<SlstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_i = row.sum(0);
    const Vec<T> gate_f = row.sum(1);
    const Vec<T> gate_z = row.sum(2);
    const Vec<T> gate_o = row.sum(3);
    const Vec<T> state_c = row.state(0);
    const Vec<T> state_n = row.state(1);
    const Vec<T> state_m = row.state(2);
    const Vec<T> v15 = log_sigmoid<S>(gate_f);
    const Vec<T> v16 = state_m + v15;
    const Vec<T> v17 = v16 - gate_i;
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const Vec<T> v21 = v20 ? v16 : gate_i;
    const Vec<T> v22 = -v17;
    const Vec<T> v23 = v18 ? v22 : v17;
    const Vec<T> v28 = tanh<S>(gate_z);
    const Vec<T> v33 = sigmoid<S>(gate_o);
    const Vec<T> v72 = -gate_f;
    const Vec<T> v73 = sigmoid<S>(v72);
    row.after(2, v21);
    row.save(0, v17);
    row.save(2, v28);
    row.save(3, v33);
    row.save(4, v73);
    row.crossing(0) = state_c;
    row.crossing(1) = state_n;
    row.crossing(2) = v17;
    row.crossing(3) = v23;
    row.crossing(4) = v28;
    row.crossing(5) = v33;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<SlstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_c = row.crossing(0);
    const Vec<T> state_n = row.crossing(1);
    const Vec<T> v17 = row.crossing(2);
    const Vec<T> v23 = row.crossing(3);
    const Vec<T> v28 = row.crossing(4);
    const Vec<T> v33 = row.crossing(5);
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const Vec<T> v24 = exp<S>(v23);
    const Vec<T> v25 = v20 ? v24 : broadcast(S(1.0));
    const Vec<T> v26 = v18 ? broadcast(S(1.0)) : v24;
    const Vec<T> v27 = state_c * v26;
    const Vec<T> v29 = v25 * v28;
    const Vec<T> v30 = v27 + v29;
    const Vec<T> v31 = state_n * v26;
    const Vec<T> v32 = v25 + v31;
    const Vec<T> v34 = v30 / v32;
    const Vec<T> v35 = v33 * v34;
    row.after(0, v30);
    row.after(1, v32);
    row.h(v35);
    row.save(1, v24);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<SlstmCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_c = row.state(0);
    const Vec<T> state_n = row.state(1);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_c = row.by_after(0);
    const Vec<T> dstate_n = row.by_after(1);
    const Vec<T> dstate_m = row.by_after(2);
    const Vec<T> v17 = row.saved(0);
    const auto v18 = v17 > S(0.0);
    const auto v19 = state_n != S(0.0);
    const auto v20 = v18 & v19;
    const Vec<T> v24 = row.saved(1);
    const Vec<T> v25 = v20 ? v24 : broadcast(S(1.0));
    const Vec<T> v26 = v18 ? broadcast(S(1.0)) : v24;
    const Vec<T> v28 = row.saved(2);
    const Vec<T> v30 = row.after(0);
    const Vec<T> v32 = row.after(1);
    const Vec<T> v33 = row.saved(3);
    const Vec<T> v34 = v30 / v32;
    const Vec<T> v36 = by_h * v33;
    const Vec<T> v37 = by_h * v34;
    const Vec<T> v38 = v34 / v32;
    const Vec<T> v40 = v36 * v38;
    const Vec<T> v42 = v36 / v32;
    const Vec<T> v43 = dstate_c + v42;
    const Vec<T> v44 = dstate_n - v40;
    const Vec<T> v45 = S(1.0) - v33;
    const Vec<T> v46 = v33 * v45;
    const Vec<T> v47 = v37 * v46;
    const Vec<T> v48 = v26 * v44;
    const Vec<T> v49 = state_n * v44;
    const Vec<T> v50 = v25 * v43;
    const Vec<T> v51 = v28 * v43;
    const Vec<T> v52 = v44 + v51;
    const Vec<T> v53 = v28 * v28;
    const Vec<T> v54 = S(1.0) - v53;
    const Vec<T> v55 = v50 * v54;
    const Vec<T> v56 = v26 * v43;
    const Vec<T> v57 = state_c * v43;
    const Vec<T> v58 = v49 + v57;
    const Vec<T> v59 = v18 ? broadcast(S(0.0)) : v58;
    const Vec<T> v60 = v20 ? v52 : broadcast(S(0.0));
    const Vec<T> v61 = v59 + v60;
    const Vec<T> v62 = v24 * v61;
    const Vec<T> v63 = v18 ? broadcast(S(0.0)) : v62;
    const Vec<T> v64 = v18 ? v62 : broadcast(S(0.0));
    const Vec<T> v66 = v63 - v64;
    const Vec<T> v67 = v20 ? broadcast(S(0.0)) : dstate_m;
    const Vec<T> v68 = v20 ? dstate_m : broadcast(S(0.0));
    const Vec<T> v70 = v66 + v68;
    const Vec<T> v71 = v67 - v66;
    const Vec<T> v73 = row.saved(4);
    const Vec<T> v74 = v70 * v73;
    row.by_state(0, v56);
    row.by_state(1, v48);
    row.by_state(2, v70);
    row.by_gate(0, v71);
    row.by_gate(1, v74);
    row.by_gate(2, v55);
    row.by_gate(3, v47);
  }
};

}  // namespace fused_lstm::FL_ISA
