// Printed by fused_lstm.cells.generate from cells/rnn.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct RnnReluCell {
  static constexpr CellShape shape{.sums = 1, .c_is_h = true};
  static constexpr long products = 0;
  static constexpr long phase = 0;
  static constexpr long sums = 1;
  static constexpr bool zoneout = false;
  static constexpr bool two_loops = false;
  static constexpr long crossing = 0;

  template <class T>
  FL_INLINE static void step(const CellRow<RnnReluCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> gate_a = row.sum(0);
    const Vec<T> v6 = relu<S>(gate_a);
    row.h(v6);
  }

  template <class T>
  FL_INLINE static void back(const CellRowBack<RnnReluCell, T>& row) {
    using S = Sum<T>;
    const Vec<T> by_h = row.by_h;
    const Vec<T> v6 = row.h();
    const auto v7 = v6 <= S(0.0);
    const Vec<T> v8 = v7 ? broadcast(S(0.0)) : by_h;
    row.by_gate(0, v8);
  }
};

}  // namespace fused_lstm::FL_ISA
