// The sLSTM's cell (Beck et al. 2024): exponential gates, whose c and normalizer n are kept divided by
// exp(m), so that neither overflows. c, n and m lie side by side in a row of c, [3H]. What is kept of
// a step is the derivative of log f by f's sum, then i, f, z and o.
#pragma once

#include "rows.h"

#include "cells/functions.h"

namespace fused_lstm::FL_ISA {

// EXPONENTIAL: whether the forget gate is exp, not sigmoid.
template <bool EXPONENTIAL, class T>
FL_APART void finish_slstm(const CellStep<T>& step, long first, long row, long rows, long blocks,
                           Vec<T>* sums) {
  using S = Sum<T>;
  const long hidden = step.hidden;
  // body(row, unit, sums) for each vector of a tile.
  const auto for_vectors = [&](const auto& body) {
    for (long block = 0; block < blocks; ++block) {
      for (long r = 0; r < rows; ++r) {
        body(row + r, first + block * W<T>, sums + (r * blocks + block) * 4);
      }
    }
  };
  // Twice, as printed cells have two loops: rows do not wait for each other.
  for_vectors([&](long b, long unit, Vec<T>* sum) {
    const long width = min(hidden - unit, W<T>);
    const S* const before = step.c + b * 3 * hidden + unit;
    Vec<T> c = load(before, width), n = load(before + hidden, width);
    Vec<T> m = load(before + 2 * hidden, width);
    if (!step.kept(b)) {
      const S* const x = step.input_part + b * step.input_stride + unit;
      for (int gate = 0; gate < 4; ++gate) sum[gate] = load(x + gate * hidden, width);
      c = n = m = Vec<T>{};
    }
    const Vec<T> f_sum = sum[1], log_f = (EXPONENTIAL ? f_sum : log_sigmoid<S>(f_sum)) + m;
    m = ((n == Vec<T>{}) | (sum[0] >= log_f)) ? sum[0] : log_f;
    const Vec<T> less = log_f - m;
    const Vec<T> i = exp<S>(sum[0] - m), f = exp<S>(less > Vec<T>{} ? Vec<T>{} : less);
    const Vec<T> z = tanh<S>(sum[2]), o = sigmoid<S>(sum[3]);
    if (step.gates) {
      T* const gates = step.gates + b * 5 * hidden + unit;
      store(gates, EXPONENTIAL ? broadcast(S(1)) : sigmoid<S>(-f_sum), width);
      store(gates + hidden, i, width);
      store(gates + 2 * hidden, f, width);
      store(gates + 3 * hidden, z, width);
      store(gates + 4 * hidden, o, width);
    }
    sum[0] = f * c + i * z;
    sum[1] = f * n + i;
    sum[2] = m;
    sum[3] = o;
  });
  for_vectors([&](long b, long unit, const Vec<T>* made) {
    const long width = min(hidden - unit, W<T>);
    S* const after = step.c_next + b * 3 * hidden + unit;
    store(after, made[0], width);
    store(after + hidden, made[1], width);
    store(after + 2 * hidden, made[2], width);
    store(step.h + b * step.stride + unit, made[3] * made[0] / made[1], width);
  });
}

// The gradient by m is not summed up from those by i and f, which cancel: h does not depend on m, so
// what is left of it is what a loss that looks at a state sends to m, less what m takes from c and n:
// at a row's last step, and at each where gradients by every state are given. That goes on to i, or by
// way of f to the m before, and lies in dc's third part meanwhile.
template <class T>
FL_APART void finish_slstm_back(const CellStepBack<T>& step, long first, long row, long rows,
                                long blocks, const Vec<T>* dh) {
  const CellStepBack<T> local = step;  // a copy: what is stored below cannot change it
  const long hidden = local.hidden, next = alive(*local.lane, local.place + 1);
  const Vec<T> zero{};
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    const Sum<T>* const before = (b < local.continued ? local.c : local.c0) + b * 3 * hidden;
    const Sum<T>* const after = local.c_next + b * 3 * hidden;
    Sum<T>* const running = local.dc + b * 3 * hidden;
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, width = hidden - unit;
      const auto gate = [&](int k) { return load(local.gates + (b * 5 + k) * hidden + unit, width); };
      const Vec<T> slope = gate(0), i = gate(1), f = gate(2), z = gate(3), o = gate(4);
      const Vec<T> c = kept ? load(before + unit, width) : zero;
      const Vec<T> n = kept ? load(before + hidden + unit, width) : zero;
      Vec<T> n_next = load(after + hidden + unit, width);
      n_next = n_next == zero ? broadcast(Sum<T>(1)) : n_next;  // lanes that do not exist
      const Vec<T> c_next = load(after + unit, width), mean = c_next / n_next;
      const Vec<T> seen = *dh * o / n_next;
      Vec<T> dc = load(running + unit, width), dn = load(running + hidden + unit, width);
      Vec<T> dm = load(running + 2 * hidden + unit, width);
      if (b >= next) {  // the row ends here
        dm = dm - dc * c_next - dn * n_next;
      } else if (local.dc_given) {
        const Sum<T>* const given = local.dc_given + b * 3 * hidden + unit;
        dm = dm - load(given, width) * c_next - load(given + hidden, width) * n_next;
      }
      dc = dc + seen;
      dn = dn - seen * mean;
      const Vec<T> by_i = (dc * z + dn) * i;  // by i's sum less m
      const auto begins = n == zero;
      const Vec<T> by_f = (begins & (f == 1)) ? zero : (dc * c + dn * n) * f;  // by log f less m
      const auto of_i = begins | (i >= f);  // m is i's sum, and not log f's
      const Vec<T> by_log_f = by_f + (of_i ? zero : dm);
      const Vec<T> left = b >= local.continued ? by_log_f : of_i ? zero : dm;  // by the m before
      store(running + unit, kept ? dc * f : zero, width);
      store(running + hidden + unit, kept ? dn * f : zero, width);
      store(running + 2 * hidden + unit, kept ? left : zero, width);
      const long line = local.line + b;
      store_block(local.dgates, 0, block, line, Vec<T>(by_i + (of_i ? dm : zero)), width);
      store_block(local.dgates, 1, block, line, Vec<T>(by_log_f * slope), width);
      store_block(local.dgates, 2, block, line, Vec<T>(dc * i * (1 - z * z)), width);
      store_block(local.dgates, 3, block, line, Vec<T>(*dh * mean * o * (1 - o)), width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
