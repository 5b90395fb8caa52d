// nn.GRU's cell: h = n + z (h - n), n = tanh(W x + r m), where m is what h makes of n, bias and all.
// A tile's sums are r, z, m. The state c is h before it is rounded; zoneout of h keeps c then.
#pragma once

#include "cells/added.h"

namespace fused_lstm::FL_ISA {

// What is left of c by a step that made `made` of it.
template <class T>
FL_INLINE Vec<T> zoned(const CellStep<T>& step, long b, long unit, Vec<T> c, Vec<T> made) {
  const Added<T>* const added = step.lane->added;
  if (!added || !added->zoneout_c.values) return made;
  return made + load_mask(added->zoneout_c, *step.lane, step.place, b, unit) * (c - made);
}

// From the gates before activation, x's part of n in `n`, to h and the c that is left.
template <class T>
FL_INLINE void leave_gru(const CellStep<T>& step, long b, long unit, Vec<T> c, Vec<T> z, Vec<T> n) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  n = tanh<Sum<T>>(n);
  if (step.gates) store(step.gates + (b * 4 + 3) * hidden + unit, n, width);
  const Vec<T> next = zoned(step, b, unit, c, Vec<T>(n + z * (c - n)));
  store(step.c_next + b * hidden + unit, next, width);
  store(step.h + b * step.stride + unit, next, width);
  const Added<T>* const added = step.lane->added;
  if (!added || !added->fed) return;
  const Vec<T> fed = next * load_recurrent(*step.lane, b, unit);
  store(fed_at(*step.lane, step.place, b) + unit, fed, width);
}

template <class T>
FL_INLINE void store_gru(const CellStep<T>& step, long b, long unit, Vec<T> m, Vec<T> r, Vec<T> z) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  if (!step.gates) return;
  T* const gates = step.gates + b * 4 * hidden + unit;
  store(gates, m, width);
  store(gates + hidden, r, width);
  store(gates + 2 * hidden, z, width);
}

template <class T>
FL_APART void finish_gru(const CellStep<T>& step, long unit, long row, long rows, long,
                         Vec<T>* sums) {
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  const Lane<T>& lane = *step.lane;
  // Two loops: n waits for r, and rows do not wait for each other.
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    Vec<T>* const sum = sums + 3 * r;
    const Sum<T>* const x = step.input_part + b * step.input_stride + unit;
    if (!step.kept(b)) {
      sum[0] = load(x, width);
      sum[1] = load(x + hidden, width);
      sum[2] = lane.b_m ? load(lane.b_m + unit, width) : Vec<T>{};
    }
    const Vec<T> m = sum[2], reset = sigmoid<Sum<T>>(sum[0]), z = sigmoid<Sum<T>>(sum[1]);
    sum[0] = load(x + 2 * hidden, width) + reset * m;  // before `gates` is written, where x lies
    sum[1] = z;
    store_gru<T>(step, b, unit, m, reset, z);
  }
  for (long r = 0; r < rows; ++r) {
    const long b = row + r;
    const Vec<T> c = step.kept(b) ? load(step.c + b * hidden + unit, width) : Vec<T>{};
    leave_gru<T>(step, b, unit, c, sums[3 * r + 1], sums[3 * r]);
  }
}

// Gradients by gates before activation.
template <class T>
struct GruGradients {
  Vec<T> m, r, z, n;
};

// dc becomes the gradient by the h before.
template <class T>
FL_INLINE GruGradients<Sum<T>> gru_gradients(const CellStepBack<T>& step, long b, long unit,
                                             Vec<T> dh, Vec<T>& dc) {
  const Lane<T>& lane = *step.lane;
  const long hidden = step.hidden, width = hidden - unit;
  const T* const gates = step.gates + b * 4 * hidden + unit;
  const Vec<T> m = load(gates, width), r = load(gates + hidden, width);
  const Vec<T> z = load(gates + 2 * hidden, width), n = load(gates + 3 * hidden, width);
  const Vec<T> c = step.kept(b) ? load(step.before(b) + unit, width) : Vec<T>{};
  Vec<T> by = dc + dh, zoned = {};
  if (lane.added && lane.added->zoneout_c.values) {
    zoned = by * load_mask(lane.added->zoneout_c, lane, step.place, b, unit);
    by -= zoned;
  }
  const Vec<T> by_n = by * (1 - z) * (1 - n * n);
  dc = by * z + zoned;
  return {by_n * r, by_n * m * r * (1 - r), by * (c - n) * z * (1 - z), by_n};
}

template <class T>
FL_APART void finish_gru_back(const CellStepBack<T>& step, long first, long row, long rows,
                              long blocks, const Vec<T>* dh) {
  const CellStepBack<T> local = step;  // a copy: what is stored below cannot change it
  const Blocks<T>& dgates = local.dgates;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = local.kept(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, at = b * local.hidden + unit, width = local.hidden - unit;
      Vec<T> dc = load(local.dc + at, width);
      const GruGradients<Sum<T>> d = gru_gradients<T>(local, b, unit, *dh, dc);
      store(local.dc + at, kept ? dc : Vec<T>{}, width);
      store_block(dgates, 0, block, local.line + b, d.m, width);
      store_block(dgates, 1, block, local.line + b, d.r, width);
      store_block(dgates, 2, block, local.line + b, d.z, width);
      store_block(dgates, 3, block, local.line + b, d.n, width);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
