// A step of an LSTM's cell that has more than nn.LSTM's: peepholes and masks, as data of its lane.
#pragma once

#include "cells/lstm.h"
#include "philox.h"
#include "rows.h"

namespace fused_lstm::FL_ISA {

// --- masks ---

// Draws the masks of one step with all threads. The masks of the step before last must no longer be in use.
template <class T>
FL_APART void draw_step(const Worker& worker, const Lane<T>& lane, long place) {
  const long t = time_of(lane, place), rows = alive(lane, place);
  const LaneOptions<T>& options = *lane.options;
  const StepMask<T>* const masks[] = {&options.zoneout_h, &options.zoneout_c};
  for (const StepMask<T>* mask : masks) {
    if (!mask->values || !mask->drawn) continue;
    const long size = lane.batch * mask->size;
    draw_mask(worker, rows * mask->size, mask->first + t * size, mask->rule,
              mask->values + place % 2 * size);
  }
}

template <class T>
FL_INLINE void draw_masks(const Worker& worker, const Lane<T>& lane, long place) {
  if (lane.options && place >= 0 && place < lane.steps) draw_step(worker, lane, place);
}

// Loads a mask's W units from `unit` on, of a row at a place.
template <class T>
FL_INLINE Vec<T> load_mask(const StepMask<T>& mask, const Lane<T>& lane, long place, long row,
                           long unit) {
  return load(mask.values + (place % 2 * lane.batch + row) * mask.size + unit, mask.size - unit);
}

template <class T>
FL_INLINE Vec<T> load_recurrent(const Lane<T>& lane, long row, long column) {
  return load(lane.options->recurrent + row * lane.options->recurrent_stride + column,
              lane.outputs - column);
}

// --- forwards ---

// h of a row before a place, from `column` on: 0 where it was zeroed.
template <class T>
FL_INLINE Vec<T> load_before(const Lane<T>& lane, long place, long b, long column) {
  if (lane.arguments.not_reset && !lane.arguments.not_reset[row_of(lane, place) + b]) return Vec<T>{};
  const T* const h = b < alive(lane, place - 1)
                         ? lane.results.y + (row_of(lane, place - 1) + b) * lane.results.y_stride
                         : lane.arguments.h0 + b * lane.outputs;
  return load(h + column, lane.outputs - column);
}

// Stores h as it was made, after its zoneout: into y, and for the next step's product.
template <class T>
FL_INLINE void leave(const Lane<T>& lane, long place, long b, long column, Vec<T> h) {
  const LaneOptions<T>& options = *lane.options;
  const long width = lane.outputs - column;
  if (options.zoneout_h.values) {
    const Vec<T> before = load_before(lane, place, b, column);
    h += load_mask(options.zoneout_h, lane, place, b, column) * (before - h);
  }
  store(lane.results.y + (row_of(lane, place) + b) * lane.results.y_stride + column, h, width);
  if (options.fed) store(fed_at(lane, place, b) + column, h * load_recurrent(lane, b, column), width);
}

// h: of `rows` rows by `vectors` vectors of columns, row by row.
template <class T>
FL_APART void leave_rows(const Lane<T>& lane, long place, long column, long row, long rows,
                         long vectors, const Vec<T>* h) {
  for (long b = row; b < row + rows; ++b) {
    for (long n = 0; n < vectors; ++n) leave<T>(lane, place, b, column + n * W<T>, *h++);
  }
}

template <class T>
FL_INLINE void leave_tile(const Lane<T>& lane, long place, long column, long row,
                          const Sums<T>& sums) {
  leave_rows(lane, place, column, row, sums.rows, sums.vectors, sums.data);
}

// W units of R h as it is kept, of a row at a place.
template <class T>
FL_INLINE Sum<T>* by_h_of(const Lane<T>& lane, long place, long b) {
  const long width = lane.cell.h_gates() * lane.hidden;
  return lane.scratch.by_h + (lane.save ? row_of(lane, place) + b : b) * width;
}

template <class T>
FL_INLINE Vec<T> peephole(const Lane<T>& lane, long gate, long unit) {
  return load(lane.options->w_ch + gate * lane.hidden + unit, lane.hidden - unit);
}

// Gates before activation -> c as the step makes it. Activates and leaves them; leaves the next c.
template <int GATES, class T>
FL_INLINE Vec<T> step_cell(const CellStep<T>& step, long b, long unit, Gates<Sum<T>>& a, Vec<T> c) {
  const Lane<T>& lane = *step.lane;
  const LaneOptions<T>& options = *lane.options;
  const long hidden = step.hidden, width = min(hidden - unit, W<T>);
  if (options.w_ch) {
    a.i += peephole(lane, 0, unit) * c;
    if (GATES == 4) a.f += peephole(lane, 1, unit) * c;
  }
  a = activate_all_but_o<GATES, T>(a.i, a.f, a.g, a.o);
  const Vec<T> made = a.f * c + a.i * a.g;
  if (options.w_ch) a.o += peephole(lane, GATES - 2, unit) * made;
  a.o = sigmoid<Sum<T>>(a.o);
  if (step.gates) store_gates<GATES>(a, step.gates + b * GATES * hidden + unit, hidden, width);
  Vec<T> next = made;
  if (options.zoneout_c.values) {
    next += load_mask(options.zoneout_c, lane, step.place, b, unit) * (c - made);
  }
  store(step.c_next + b * hidden + unit, next, width);
  return made;
}

template <class T>
FL_INLINE void leave_made(const CellStep<T>& step, long b, long unit, Vec<T> h) {
  if (step.lane->scratch.unprojected) {
    store(step.h + b * step.stride + unit, h, min(step.hidden - unit, W<T>));
  } else {
    leave<T>(*step.lane, step.place, b, unit, h);
  }
}

// R h of a lane that normalizes, where the rest waits for the whole row.
template <class T>
FL_APART void keep_by_h(const CellStep<T>& step, long first, long row, long rows, long blocks,
                        Vec<T>* sums) {
  const long gates = step.lane->cell.h_gates();
  for (long b = row; b < row + rows; ++b) {
    Sum<T>* const by_h = by_h_of(*step.lane, step.place, b);
    for (long block = 0; block < blocks; ++block) {
      const long unit = first + block * W<T>, width = min(step.hidden - unit, W<T>);
      for (long gate = 0; gate < gates; ++gate) {
        store(by_h + gate * step.hidden + unit, *sums++, width);
      }
    }
  }
}

template <int GATES, class T>
FL_APART void finish_options(const CellStep<T>& step, long first, long row, long rows, long blocks,
                           Vec<T>* sums) {
  const long hidden = step.hidden;
  for (long b = row; b < row + rows; ++b) {
    for (long unit = first; unit < first + blocks * W<T>; unit += W<T>, sums += GATES) {
      const long width = min(hidden - unit, W<T>);
      Vec<T> c = load(step.c + b * hidden + unit, width);
      if (!step.kept(b)) {
        const Sum<T>* const x = step.input_part + b * step.input_stride + unit;
        for (int gate = 0; gate < GATES; ++gate) sums[gate] = load(x + gate * hidden, width);
        c = Vec<T>{};
      }
      Gates<Sum<T>> a = {sums[0], sums[1], sums[GATES - 2], sums[GATES - 1]};
      const Vec<T> made = step_cell<GATES, T>(step, b, unit, a, c);
      leave_made<T>(step, b, unit, a.o * tanh<Sum<T>>(made));
    }
  }
}

// --- backwards ---

template <class S>
FL_INLINE void accumulate(S* to, Vec<S> v, long width) {
  store(to, load(to, width) + v, width);
}

// To a tile of by the h that w_hh was multiplied by: by h itself.
template <class T>
FL_INLINE void carry_gradients(const Lane<T>& lane, long column, long row, const Sums<T>& dh) {
  const LaneOptions<T>& options = *lane.options;
  for (long r = 0; r < dh.rows; ++r) {
    for (long n = 0; n < dh.vectors; ++n) {
      const long at = column + n * W<T>;
      Vec<T>& sum = dh[r][n];
      if (options.recurrent) sum *= load_recurrent(lane, row + r, at);
      if (!options.carried) continue;
      sum += load(options.carried + (row + r) * lane.outputs + at, lane.outputs - at);
    }
  }
}

// From by h to by h as it was made; what goes to the h before is carried there.
template <class T>
FL_INLINE void keep_gradients(const Lane<T>& lane, long place, long column, long row,
                              const Sums<T>& dh) {
  const LaneOptions<T>& options = *lane.options;
  if (!options.carried) return;
  for (long r = 0; r < dh.rows; ++r) {
    for (long n = 0; n < dh.vectors; ++n) {
      const long at = column + n * W<T>;
      const Vec<T> old = dh[r][n] * load_mask(options.zoneout_h, lane, place, row + r, at);
      store(options.carried + (row + r) * lane.outputs + at, old, lane.outputs - at);
      dh[r][n] -= old;
    }
  }
}

// c as a step made it: zoneout has left another behind it.
template <class T>
FL_INLINE Vec<T> made_of(const CellStepBack<T>& step, long b, long unit, const Gates<Sum<T>>& a,
                         Vec<T> c) {
  if (!step.lane->options->zoneout_c.values) {
    return load(step.c_next + b * step.hidden + unit, step.hidden - unit);
  }
  return a.f * c + a.i * a.g;
}

// Gradients by the gates before activation, of those by o so and by the c that was made through h
// alone; dc becomes the gradient by the c before.
template <int GATES, class T>
FL_INLINE Gates<Sum<T>> cell_gradients(const CellStepBack<T>& step, long b, long unit,
                                       const Gates<Sum<T>>& a, Vec<T> c, Vec<T> made, Vec<T> by_o,
                                       Vec<T> by_made, Vec<T>& dc) {
  const Lane<T>& lane = *step.lane;
  const LaneOptions<T>& options = *lane.options;
  const long hidden = step.hidden, width = hidden - unit;
  Vec<T> kept = {};
  if (options.zoneout_c.values) kept = dc * load_mask(options.zoneout_c, lane, step.place, b, unit);
  Vec<T> by_c = dc - kept + by_made;
  if (options.w_ch) by_c += by_o * peephole(lane, GATES - 2, unit);
  const Vec<T> through_i = GATES == 4 ? a.g : a.g - c;
  const Vec<T> by_i = by_c * through_i * a.i * (1 - a.i), by_f = by_c * c * a.f * (1 - a.f);
  dc = by_c * a.f + kept;
  if (options.w_ch) {
    Sum<T>* const to = options.dw_ch + b * (GATES - 1) * hidden + unit;
    dc += by_i * peephole(lane, 0, unit);
    accumulate<Sum<T>>(to, by_i * c, width);
    if (GATES == 4) {
      dc += by_f * peephole(lane, 1, unit);
      accumulate<Sum<T>>(to + hidden, by_f * c, width);
    }
    accumulate<Sum<T>>(to + (GATES - 2) * hidden, by_o * made, width);
  }
  return {by_i, by_f, by_c * a.i * (1 - a.g * a.g), by_o};
}

// dh of a lane that normalizes, where the rest waits for the whole row.
template <class T>
FL_APART void keep_dh(const CellStepBack<T>& step, long first, long row, long rows, long blocks,
                      const Vec<T>* dh) {
  for (long b = row; b < row + rows; ++b) {
    for (long unit = first * W<T>; unit < (first + blocks) * W<T>; unit += W<T>) {
      store(step.lane->options->dh + b * step.hidden + unit, *dh++, step.hidden - unit);
    }
  }
}

template <int GATES, class T>
FL_APART void finish_options_back(const CellStepBack<T>& step, long first, long row, long rows,
                                long blocks, const Vec<T>* dh) {
  const LaneOptions<T>& options = *step.lane->options;
  const long hidden = step.hidden;
  for (long b = row; b < row + rows; ++b) {
    const bool kept = step.kept(b);
    const Sum<T>* const before = step.before(b);
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>, at = b * hidden + unit, width = hidden - unit;
      const Vec<T> c = kept ? load(before + unit, width) : Vec<T>{};
      const Gates<Sum<T>> a =
          load_gates<GATES>(step.gates + b * GATES * hidden + unit, hidden, width);
      Vec<T> dc = load(step.dc + at, width);
      const Vec<T> made = made_of<T>(step, b, unit, a, c), tanh_c = tanh<Sum<T>>(made);
      if (options.unprojected) {
        store(options.unprojected + (step.line + b) * hidden + unit, a.o * tanh_c, width);
      }
      const Gates<Sum<T>> da =
          cell_gradients<GATES, T>(step, b, unit, a, c, made, *dh * tanh_c * a.o * (1 - a.o),
                                   *dh * a.o * (1 - tanh_c * tanh_c), dc);
      store(step.dc + at, kept ? dc : Vec<T>{}, width);
      store_blocks<GATES>(da, step.dgates, block, step.line + b, width);
    }
  }
}

// A panel of h as w_hh was multiplied by it, of the rows `rows` of a step.
template <class T>
void pack_dropped(const Lane<T>& lane, const Rows<T>& h, Range rows, long column,
                  const Panel<T>& panel, long at) {
  for (long b = rows.begin; b < rows.end; ++b, ++at) {
    for (long n = 0; n < panel.vectors; ++n) {
      const long from = column + n * W<T>;
      panel.put(at, n, load(h.data + b * h.stride + from, lane.outputs - from) *
                           load_recurrent(lane, b, from));
    }
  }
}

}  // namespace fused_lstm::FL_ISA
