// Printed by fused_lstm.cells.generate from cells/rnn.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct RnnTanhCell {
  static constexpr CellShape shape{.sums = 1, .c_is_h = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 1;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = false;
  static constexpr long crossing = 0;

  template <class T>
  FL_INLINE static void step(const CellRow<RnnTanhCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_a = row.sum(0);
    const Vec<T> v6 = tanh<S>(gate_a);
    row.h(v6);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<RnnTanhCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> by_h = row.by_h;
    const Vec<T> v6 = row.h();
    const Vec<T> v7 = v6 * v6;
    const Vec<T> v8 = S(1.0) - v7;
    const Vec<T> v9 = by_h * v8;
    row.by_gate(0, v9);
  }
};

}  // namespace fused_lstm::FL_ISA
