// Printed by fused_lstm.cells.generate from cells/rnn.py. Do not edit.
#pragma once

#include "cells/finish.h"

namespace fused_lstm::FL_ISA {

struct RnnTanhCell : PrintedCell {
  static constexpr CellShape shape{.sums = 1, .c_is_h = true};
  static constexpr long sums = 1;

  template <class S, class Row>
  FL_INLINE static void step(const Row& row) {
    const auto gate_a = row.sum(0);
    const auto v6 = tanh<S>(gate_a);
    row.h(v6);
  }

  template <class S, class Row>
  FL_INLINE static void back(const Row& row) {
    const auto dh = row.by_h;
    const auto v6 = row.h();
    const auto v7 = v6 * v6;
    const auto v8 = S(1.0) - v7;
    const auto v9 = dh * v8;
    row.by_gate(0, v9);
  }
};

}  // namespace fused_lstm::FL_ISA
