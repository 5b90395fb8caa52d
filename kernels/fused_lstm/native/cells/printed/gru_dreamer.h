// Printed by fused_lstm.cells.generate from cells/gru_dreamer.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct GruDreamerCell {
  static constexpr CellShape shape{.sums = 3, .saved = 4, .c_is_h = true, .in_layers = false};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 3;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = true;
  static constexpr long crossing = 3;

  template <class T>
  FL_INLINE static void step(const CellRow<GruDreamerCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_r = row.sum(0);
    const Vec<T> gate_a = row.sum(1);
    const Vec<T> gate_u = row.sum(2);
    const Vec<T> state_h = row.state(0);
    const Vec<T> v10 = sigmoid<S>(gate_r);
    const Vec<T> v11 = gate_a * v10;
    const Vec<T> v13 = gate_u - S(1.0);
    const Vec<T> v14 = sigmoid<S>(v13);
    row.save(0, gate_a);
    row.save(1, v10);
    row.save(3, v14);
    row.crossing(0) = state_h;
    row.crossing(1) = v11;
    row.crossing(2) = v14;
  }

  template <class T>
  FL_INLINE static void finish(const CellRow<GruDreamerCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> state_h = row.crossing(0);
    const Vec<T> v11 = row.crossing(1);
    const Vec<T> v14 = row.crossing(2);
    const Vec<T> v12 = tanh<S>(v11);
    const Vec<T> v15 = v12 - state_h;
    const Vec<T> v16 = v14 * v15;
    const Vec<T> v17 = state_h + v16;
    row.after(0, v17);
    row.h(v17);
    row.save(2, v12);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<GruDreamerCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_a = row.saved(0);
    const Vec<T> state_h = row.state(0);
    const Vec<T> by_h = row.by_h;
    const Vec<T> dstate_h = row.by_after(0);
    const Vec<T> v10 = row.saved(1);
    const Vec<T> v12 = row.saved(2);
    const Vec<T> v14 = row.saved(3);
    const Vec<T> v15 = v12 - state_h;
    const Vec<T> v18 = by_h + dstate_h;
    const Vec<T> v19 = v14 * v18;
    const Vec<T> v20 = v15 * v18;
    const Vec<T> v22 = v18 - v19;
    const Vec<T> v23 = S(1.0) - v14;
    const Vec<T> v24 = v14 * v23;
    const Vec<T> v25 = v20 * v24;
    const Vec<T> v26 = v12 * v12;
    const Vec<T> v27 = S(1.0) - v26;
    const Vec<T> v28 = v19 * v27;
    const Vec<T> v29 = v10 * v28;
    const Vec<T> v30 = gate_a * v28;
    const Vec<T> v31 = S(1.0) - v10;
    const Vec<T> v32 = v10 * v31;
    const Vec<T> v33 = v30 * v32;
    row.by_state(0, v22);
    row.by_gate(0, v33);
    row.by_gate(1, v29);
    row.by_gate(2, v25);
  }
};

}  // namespace fused_lstm::FL_ISA
