// Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct SlstmExponentialCell {
  static constexpr CellShape shape{.sums = 4, .saved = 4, .states = 3, .in_layers = false};
  static constexpr long phase = 0;
  static constexpr long sums = 4;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = false;
  static constexpr long crossing = 0;

  template <class T>
  FL_INLINE static void step(const CellRow<SlstmExponentialCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_i = row.sum(0);
    const Vec<T> gate_f = row.sum(1);
    const Vec<T> gate_z = row.sum(2);
    const Vec<T> gate_o = row.sum(3);
    const Vec<T> state_c = row.state(0);
    const Vec<T> state_n = row.state(1);
    const Vec<T> state_m = row.state(2);
    const Vec<T> v15 = gate_f + state_m;
    const Vec<T> v16 = v15 - gate_i;
    const auto v17 = v16 > S(0.0);
    const auto v18 = state_n != S(0.0);
    const auto v19 = v17 & v18;
    const Vec<T> v20 = v19 ? v15 : gate_i;
    const Vec<T> v21 = -v16;
    const Vec<T> v22 = v17 ? v21 : v16;
    const Vec<T> v23 = exp<S>(v22);
    const Vec<T> v24 = v19 ? v23 : broadcast(S(1.0));
    const Vec<T> v25 = v17 ? broadcast(S(1.0)) : v23;
    const Vec<T> v26 = state_c * v25;
    const Vec<T> v27 = tanh<S>(gate_z);
    const Vec<T> v28 = v24 * v27;
    const Vec<T> v29 = v26 + v28;
    const Vec<T> v30 = state_n * v25;
    const Vec<T> v31 = v24 + v30;
    const Vec<T> v32 = sigmoid<S>(gate_o);
    const Vec<T> v33 = v29 / v31;
    const Vec<T> v34 = v32 * v33;
    row.after(0, v29);
    row.after(1, v31);
    row.after(2, v20);
    row.h(v34);
    row.save(0, v16);
    row.save(1, v23);
    row.save(2, v27);
    row.save(3, v32);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<SlstmExponentialCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_c = row.state(0);
    const Vec<T> state_n = row.state(1);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_c = row.by_after(0);
    const Vec<T> dstate_n = row.by_after(1);
    const Vec<T> dstate_m = row.by_after(2);
    const Vec<T> v16 = row.saved(0);
    const auto v17 = v16 > S(0.0);
    const auto v18 = state_n != S(0.0);
    const auto v19 = v17 & v18;
    const Vec<T> v23 = row.saved(1);
    const Vec<T> v24 = v19 ? v23 : broadcast(S(1.0));
    const Vec<T> v25 = v17 ? broadcast(S(1.0)) : v23;
    const Vec<T> v27 = row.saved(2);
    const Vec<T> v29 = row.after(0);
    const Vec<T> v31 = row.after(1);
    const Vec<T> v32 = row.saved(3);
    const Vec<T> v33 = v29 / v31;
    const Vec<T> v35 = by_h * v32;
    const Vec<T> v36 = by_h * v33;
    const Vec<T> v37 = v33 / v31;
    const Vec<T> v39 = v35 * v37;
    const Vec<T> v41 = v35 / v31;
    const Vec<T> v42 = dstate_c + v41;
    const Vec<T> v43 = dstate_n - v39;
    const Vec<T> v44 = S(1.0) - v32;
    const Vec<T> v45 = v32 * v44;
    const Vec<T> v46 = v36 * v45;
    const Vec<T> v47 = v25 * v43;
    const Vec<T> v48 = state_n * v43;
    const Vec<T> v49 = v24 * v42;
    const Vec<T> v50 = v27 * v42;
    const Vec<T> v51 = v43 + v50;
    const Vec<T> v52 = v27 * v27;
    const Vec<T> v53 = S(1.0) - v52;
    const Vec<T> v54 = v49 * v53;
    const Vec<T> v55 = v25 * v42;
    const Vec<T> v56 = state_c * v42;
    const Vec<T> v57 = v48 + v56;
    const Vec<T> v58 = v17 ? broadcast(S(0.0)) : v57;
    const Vec<T> v59 = v19 ? v51 : broadcast(S(0.0));
    const Vec<T> v60 = v58 + v59;
    const Vec<T> v61 = v23 * v60;
    const Vec<T> v62 = v17 ? broadcast(S(0.0)) : v61;
    const Vec<T> v63 = v17 ? v61 : broadcast(S(0.0));
    const Vec<T> v65 = v62 - v63;
    const Vec<T> v66 = v19 ? broadcast(S(0.0)) : dstate_m;
    const Vec<T> v67 = v19 ? dstate_m : broadcast(S(0.0));
    const Vec<T> v69 = v65 + v67;
    const Vec<T> v70 = v66 - v65;
    row.by_state(0, v55);
    row.by_state(1, v47);
    row.by_state(2, v69);
    row.by_gate(0, v70);
    row.by_gate(1, v69);
    row.by_gate(2, v54);
    row.by_gate(3, v46);
  }
};

}  // namespace fused_lstm::FL_ISA
