// A lane's backward pass: one product a step with the cell's pointwise backward done on each tile
// while it is in registers; then the gradients of weights and input as large products.
//
// dgates, by the gates before activation, is kept in blocks (see blocks.h), a row for each of N: it
// is a factor row by row in dh = dgates R and dx = dgates W, then, its rows paired, transposed in
// dR = dgates' h and dW = dgates' x. Where h is projected, so is dh.
//
// From the gradients by what a product inside the step made come those by what it multiplied, with which the
// next function begins. As dgates they are kept for all steps, and the weights' gradients are one product
// each.
#pragma once

#include "product/large.h"
#include "product/pair.h"
#include "sweep_forward.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_INLINE long rows_in(const Lane<T>& lane) {  // N
  return lane.arguments.first[lane.steps];
}

// By all gates before activation.
template <class T>
FL_INLINE Blocks<T> dgates_of(const Lane<T>& lane, const LaneGradient<T>& gradient) {
  return {gradient.scratch.dgates, lane.cell.gradients(), lane.hidden, rows_in(lane)};
}

// Returns the columns of dgates that belong to W x, or to R h. A GRU's are m, r, z, n: x makes r, z, n,
// h makes r, z and m, its part of n. w_hh has the rows of what is of h alone at the end.
template <class T>
FL_INLINE Blocks<T> by_input_of(const Lane<T>& lane, const LaneGradient<T>& gradient) {
  Blocks<T> all = dgates_of(lane, gradient);
  if (gradient.scratch.by_x) all.data = gradient.scratch.by_x;
  const CellShape& shape = lane.cell;
  return shape.apart() ? groups_of(all, shape.of_h, shape.x_gates(), 0) : all;
}

template <class T>
FL_INLINE Blocks<T> by_recurrent_of(const Lane<T>& lane, const LaneGradient<T>& gradient) {
  const Blocks<T> all = dgates_of(lane, gradient);
  const CellShape& shape = lane.cell;
  return shape.apart() ? groups_of(all, 0, shape.h_gates(), shape.sums) : all;
}

template <class T>
FL_INLINE Blocks<T> dh_of(const Lane<T>& lane, const LaneGradient<T>& gradient) {
  return {gradient.scratch.dh, 1, lane.outputs, rows_in(lane)};
}

// --- products inside the step ---

// Gradients by what product k made.
template <class T>
FL_INLINE Blocks<T> by_inner_of(const Lane<T>& lane, const LaneGradient<T>& gradient, long k) {
  return made_by(lane, k, gradient.scratch.by_inner[k]);
}

// Panels of a product of each step, as they are packed and as they are read.
template <class T>
long panels_of(const Worker& worker, const Lane<T>& lane, long columns) {
  return Fma<T>::panels_of(columns, lane.batch, worker.count);
}

// Packs the products' weights.
template <class T>
void pack_inner(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                T* packed) {
  for (long k = 0; k < lane.cell.inner->count; ++k) {
    if (!lane.cell.inner->is_product(k)) continue;
    const Blocks<T> made = by_inner_of(lane, gradient, k);
    clear_rest(worker, made);
    const long columns = lane.inner.depth[k];
    Fma<T>::pack_columns_of(worker, lane.weights.w_inner[k], made, columns,
                            panels_of(worker, lane, columns), packed);
    packed += Fma<T>::columns_size(inner_shape(lane, k));
  }
}

// From the gradients by sums, the last of which is k and `end` is behind the first, backwards, to those by what
// they add up: a worker's units of each row through all phases between.
template <class T>
void sums_back(const Worker& worker, const Lane<T>& lane, CellStepBack<T> step, long k, long end) {
  const InnerProducts& inner = *lane.cell.inner;
  const Vec<T> nothing[32] = {};
  for (long row = 0; row < alive(lane, step.place); ++row) {
    for (long at = k; at > end; --at) {
      if (inner.kind[at] == InnerKind::sum) {
        step.by_sums[row * inner.sums + inner.number[at]] = total_of(worker, lane, at, row);
      }
      if (!inner.works_back[at]) continue;
      const auto finish = reinterpret_cast<FinishBack<T>>(functions_around(lane, at).finish_back);
      step.hidden = lane.inner.depth[at];
      const Range blocks = part(blocks_of<T>(step.hidden), worker.id, worker.count);
      for_blocks<T>(blocks, [&](long block, long blocks) {
        finish(step, block, row, 1, blocks, nothing);
      });
    }
  }
}

// Adds what comes from outside to the gradients by the states of an early phase, or with -1 by those as wide
// as h, of some rows and units.
template <class T>
FL_APART void add_given(const CellStepBack<T>& step, long early, long first, long vectors, Range rows) {
  const InnerProducts* const inner = step.lane->cell.inner;
  const long states = step.lane->cell.states, apart = state_units(*step.lane);
  const long width = step.hidden - first * W<T>;
  for (long line = rows.begin * states; line < rows.end * states; ++line) {
    if (inner && inner->early_of_state[line % states] != early) continue;
    const long at = line * apart + first * W<T>;
    for (long n = 0; n < vectors; ++n) {
      const long unit = n * W<T>;
      const Vec<T> sum = load(step.dc + at + unit, width - unit) +
                         load(step.dc_given + at + unit, width - unit);
      store(step.dc + at + unit, sum, width - unit);
    }
  }
}

// Runs a step's early phases backwards: a worker's units of each row.
template <class T>
void early_back(const Worker& worker, const Lane<T>& lane, const CellStepBack<T>& of_h) {
  const InnerProducts& inner = *lane.cell.inner;
  if (inner.early == 0) return;
  CellStepBack<T> step = of_h;
  const Vec<T> nothing[32] = {};
  for (long k = 0; k < inner.early; ++k) {
    const CellFunctions functions = inner.early_functions[static_cast<long>(factors_of<T>)][k];
    const auto finish = reinterpret_cast<FinishBack<T>>(functions.finish_back);
    step.hidden = lane.inner.early[k];
    const Range mine = part(blocks_of<T>(step.hidden), worker.id, worker.count);
    for (long row = 0; row < alive(lane, step.place); ++row) {
      for_blocks<T>(mine, [&](long block, long blocks) {
        if (step.dc_given) add_given(step, k, block, blocks, {row, row + 1});
        finish(step, block, row, 1, blocks, nothing);
      });
    }
  }
}

// From the gradients by what the last product made to those by all gates.
template <class T>
void inner_back(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                CellStepBack<T> step, const T* packed, Sum<T>* sums) {
  const InnerProducts& inner = *lane.cell.inner;
  step.totals = totals_of(lane, worker.id);
  if (lane.scratch.by_sums) step.by_sums = lane.scratch.by_sums + worker.id * lane.batch * inner.sums;
  early_back(worker, lane, step);
  for (long k = 0; k < inner.count; ++k) {
    if (inner.is_product(k)) packed += Fma<T>::columns_size(inner_shape(lane, k));
  }
  for (long k = inner.count - 1, next; k >= 0; k = next) {
    if (inner.meets_back[k]) worker.sync();
    next = k - 1;
    if (!inner.is_product(k)) {
      const bool alone = worker.count == 1;
      while (next >= 0 && !inner.is_product(next) && (alone || !inner.meets_back[next])) --next;
      sums_back(worker, lane, step, k, next);
      continue;
    }
    step.hidden = lane.inner.depth[k];
    step.finish = reinterpret_cast<FinishBack<T>>(functions_around(lane, k).finish_back);
    packed -= Fma<T>::columns_size(inner_shape(lane, k));
    Fma<T>::columns(worker, by_inner_of(lane, gradient, k), step.line,
                    {0, alive(lane, step.place)}, step.hidden, panels_of(worker, lane, step.hidden),
                    packed, (step.place + k) % 2, sums,
                    [&](const Sums<T>& tile, long first, long row) {
      step.finish(step, first, row, tile.rows, tile.vectors, tile.data);
    });
  }
}

// Returns where the sums of a gradient `out` lie between parts, behind `before` elements of others.
template <class T>
FL_INLINE Sum<T>* partial_of(const LaneGradient<T>& gradient, T* out, long before) {
  if constexpr (deep<T> == 1) return out;
  return gradient.scratch.partial ? gradient.scratch.partial + before : nullptr;
}

// The gradients of the products' weights; behind: the elements of other gradients before them.
template <class T>
void inner_gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                     long behind, T* panel) {
  for (long k = 0; k < lane.cell.inner->count; ++k) {
    if (!lane.cell.inner->is_product(k)) continue;
    const Rows<T> fed = fed_of(lane, k, lane.results.gates);
    const WeightShape shape = inner_shape(lane, k);
    T* const out = gradient.weights.w_inner[k];
    transposed_product(worker, by_inner_of(lane, gradient, k), shape.depth, out,
                       partial_of(gradient, out, behind), panel,
                       [&](Range n, long column, const Panel<T>& right) {
      pack_rows(fed.data, fed.stride, n, column, shape.depth - column, right);
    });
    behind += shape.gates * shape.units * shape.depth;
  }
}

// --- a step: dh from the next step's dgates, then this step's dgates ---

template <class T>
FL_INLINE CellStepBack<T> cell_step_back(const Lane<T>& lane, const LaneGradient<T>& gradient,
                                         long place) {
  const long row = row_of(lane, place);
  CellStepBack<T> step{};
  step.lane = &lane;
  step.finish = finish_back_of(lane);
  step.place = place;
  step.hidden = state_units(lane);
  step.not_reset = lane.arguments.not_reset ? lane.arguments.not_reset + row : nullptr;
  step.gates = lane.results.gates + row * saved_width(lane);
  step.continued = alive(lane, place - 1);
  step.c = step.continued > 0 ? lane.results.c + row_of(lane, place - 1) * c_width(lane) : nullptr;
  step.c0 = lane.arguments.c0;
  step.c_next = lane.results.c + row * c_width(lane);
  step.h = lane.results.y + row * lane.results.y_stride;
  step.stride = lane.results.y_stride;
  step.dc = gradient.arguments.dc0;
  step.dc_given = gradient.results.dc ? gradient.results.dc + row * c_width(lane) : nullptr;
  step.by_own = gradient.arguments.dcell_inputs;
  if (step.by_own.data) step.by_own.data += row * step.by_own.stride;
  step.dgates = dgates_of(lane, gradient);
  step.line = row;
  if (lane.results.numbers) step.numbers = lane.results.numbers + row * lane.cell.inner->numbers;
  if (lane.cell.inner) {
    step.by_inner = gradient.scratch.by_inner;
    step.arrived = gradient.scratch.arrived;
  }
  return step;
}

template <class T>
FL_INLINE void finish_cell_back(const CellStepBack<T>& step, long first, long row,
                                const Sums<T>& dh) {
  if (step.dc_given) add_given(step, -1, first, dh.vectors, {row, row + dh.rows});
  step.finish(step, first, row, dh.rows, dh.vectors, dh.data);
}

// Adds what else goes into the dh that a tile has of a place's rows: none crosses a state that was
// zeroed, dh_n comes where a row ends, dy everywhere.
template <class T>
FL_INLINE void add_gradients(const Lane<T>& lane, const LaneGradient<T>& gradient, long place,
                             long column, long row, const Sums<T>& dh) {
  const long outputs = lane.outputs, width = outputs - column, next = alive(lane, place + 1);
  if (gradient.clip > 0) {
    for (long i = 0; i < dh.rows * dh.vectors; ++i) {
      dh.data[i] = clamp<Sum<T>>(dh.data[i], gradient.clip);
    }
  }
  if (lane.options && row < next) carry_gradients(lane, column, row, dh);
  if (lane.arguments.not_reset && row < next) {
    const bool* const not_reset = lane.arguments.not_reset + row_of(lane, place + 1) + row;
    for (long r = 0; r < dh.rows; ++r) {
      for (long n = 0; n < dh.vectors; ++n) dh[r][n] = not_reset[r] ? dh[r][n] : Vec<T>{};
    }
  }
  if (row >= alive(lane, place)) return;  // what goes to h0
  if (gradient.results.dy) {
    const Sum<T>* const dy = gradient.results.dy + (row_of(lane, place) + row) * lane.results.y_stride;
    add(dh, dy + column, lane.results.y_stride, width);
  }
  if (gradient.results.dh_each) {
    const Sum<T>* const each = gradient.results.dh_each + (row_of(lane, place) + row) * lane.results.y_stride;
    add(dh, each + column, lane.results.y_stride, width);
  }
  if (row >= next && gradient.results.dh_n) {
    add(dh, gradient.results.dh_n + row * outputs + column, outputs, width);
  }
  if (lane.options) keep_gradients(lane, place, column, row, dh);
}

// body(dgates, line, rows) for the rows that a place shares with the next one, for those that end
// at it, with no dgates, and for those that begin at the next one.
template <class T, class Body>
FL_INLINE void for_gradients_after(const Lane<T>& lane, const Blocks<T>& dgates, long place,
                                   const Body& body) {
  const long rows = alive(lane, place), next = alive(lane, place + 1), both = min(rows, next);
  const long line = next > 0 ? row_of(lane, place + 1) : 0;
  const Blocks<T> nothing{nullptr, 0, dgates.units, 0};
  if (both > 0) body(dgates, line, Range{0, both});
  if (rows != next) body(next > rows ? dgates : nothing, line, Range{both, max(rows, next)});
}

// dh of a place; place -1 is before the first, where there is only dh0.
template <class T>
void step_backward(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                   long place, const T* packed, Sum<T>* sums) {
  const long outputs = lane.outputs, rows = alive(lane, place);
  CellStepBack<T> step{};
  begin_sums(worker, lane, true);
  if (rows > 0) step = cell_step_back(lane, gradient, place);
  step.totals = totals_of(lane, worker.id);
  const Blocks<T> dh = dh_of(lane, gradient);
  for_gradients_after(lane, by_recurrent_of(lane, gradient), place,
                      [&](const Blocks<T>& dgates, long line, Range range) {
    Fma<T>::columns(worker, dgates, line, range, outputs, panels_of(worker, lane, outputs), packed,
                    place % 2, sums,
                    [&](const Sums<T>& tile, long first, long row) {
      const long column = first * W<T>;
      add_gradients(lane, gradient, place, column, row, tile);
      if (row >= rows) {
        store(tile, gradient.arguments.dh0 + row * outputs + column, outputs, outputs - column);
      } else if (lane.weights.w_hr) {
        store(tile, dh, first, step.line + row);
      } else {
        finish_cell_back(step, first, row, tile);
      }
    });
  });
}

// From dh to dgates where h is projected.
template <class T>
void project_back(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                  long place, const T* packed, Sum<T>* sums) {
  CellStepBack<T> step = cell_step_back(lane, gradient, place);
  step.totals = totals_of(lane, worker.id);
  Fma<T>::columns(worker, dh_of(lane, gradient), step.line, {0, alive(lane, place)}, lane.hidden,
                  panels_of(worker, lane, lane.hidden), packed, place % 2, sums,
                  [&](const Sums<T>& tile, long first, long row) {
    finish_cell_back(step, first, row, tile);
  });
}

template <class T>
void sweep_backward(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                    const Scratch<T>& scratch) {
  T* const projection = scratch.recurrent + Fma<T>::columns_size(recurrent_shape(lane));
  Sum<T>* const sums = sums_of(panel_of(worker, scratch.panels));
  const Blocks<T> by_h = by_recurrent_of(lane, gradient), by_x = by_input_of(lane, gradient);
  Fma<T>::pack_columns_of(worker, lane.weights.w_hh, by_h, lane.outputs,
                          panels_of(worker, lane, lane.outputs), scratch.recurrent);
  clear_rest(worker, dgates_of(lane, gradient));
  if (gradient.scratch.by_x) clear_rest(worker, by_x);
  if (lane.weights.w_hr) {
    const Blocks<T> dh = dh_of(lane, gradient);
    clear_rest(worker, dh);
    Fma<T>::pack_columns_of(worker, lane.weights.w_hr, dh, lane.hidden,
                            panels_of(worker, lane, lane.hidden), projection);
  }
  T* const inner = projection + (lane.weights.w_hr ? Fma<T>::columns_size({1, lane.outputs, lane.hidden}) : 0);
  if (lane.cell.inner) pack_inner(worker, lane, gradient, inner);
  draw_masks(worker, lane, lane.steps - 1);
  // If h has a part in no gate, a worker's tiles are the same at each step, and wait for no other's.
  const bool even = rows_in(lane) == lane.steps * lane.batch;
  const bool is_early = lane.cell.inner && lane.cell.inner->early > 0;
  const bool meets = by_h.groups > 0 || lane.options || lane.weights.w_hr || !even || lane.scratch.totals ||
                     is_early;
  for (long place = lane.steps - 1; place >= -1; --place) {
    if (meets || place < 0 || place == lane.steps - 1) worker.sync();
    step_backward(worker, lane, gradient, place, scratch.recurrent, sums);
    draw_masks(worker, lane, place - 1);
    if (place < 0) break;
    if (lane.weights.w_hr) {
      worker.sync();
      project_back(worker, lane, gradient, place, projection, sums);
    }
    if (lane.cell.inner) {
      inner_back(worker, lane, gradient, cell_step_back(lane, gradient, place), inner, sums);
    }
    if (!gradient.scratch.by_x) continue;
    worker.sync();
    finish_rows_back(worker, lane, by_x, by_h, cell_step_back(lane, gradient, place));
  }
}

// --- what is left when every step's dgates are known ---

// db = the sum of dgates' rows, a block and a range of rows at a time.
template <class T>
FL_INLINE void bias_gradient(const Blocks<T>& dgates, long block, Range rows, T* db) {
  const long width = dgates.width(block);
  T* const target = db + dgates.column(block);
  Vec<T> total = rows.begin > 0 ? load(target, width) : Vec<T>{};
  for (long row = rows.begin; row < rows.end; ++row) total += load(dgates.at(block, row));
  store(target, total, width);
}

// db of a worker's share of the blocks.
template <class T>
void bias_gradient(const Worker& worker, const Blocks<T>& dgates, T* db) {
  const Range mine = whole_part(dgates.count(), worker.id, worker.count, Blocks<T>::abreast);
  for (long block = mine.begin; db && block < mine.end; ++block) {
    bias_gradient(dgates, block, {0, dgates.rows}, db);
  }
}

// db, and then pairs of the rows that it is the sum of: for bfloat16, between syncs.
template <class T>
void pair_dgates(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient) {
  bias_gradient(worker, by_input_of(lane, gradient), gradient.weights.b_ih);
  if (gradient.weights.b_hh) {
    bias_gradient(worker, by_recurrent_of(lane, gradient), gradient.weights.b_hh);
    worker.sync();  // a worker's shares of the two are not the same
  }
  pair_rows(worker, dgates_of(lane, gradient));
  if (gradient.scratch.by_x) pair_rows(worker, by_input_of(lane, gradient));
  if (lane.weights.w_hr) pair_rows(worker, dh_of(lane, gradient));
  for (long k = 0; lane.cell.inner && k < lane.cell.inner->count; ++k) {
    if (lane.cell.inner->is_product(k)) pair_rows(worker, by_inner_of(lane, gradient, k));
  }
}

// A panel, from its row `at` on, of h before the rows `n` of a place: of h0, of y or, where it was
// zeroed, of zeros.
template <class T>
void pack_before(const Lane<T>& lane, long place, Range n, long column, const Panel<T>& panel,
                 long at) {
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    const Range own{max(rows.begin, n.begin), min(rows.end, n.end)};
    const long first = at + own.begin - n.begin, width = lane.outputs - column;
    if (lane.options && lane.options->recurrent) {
      pack_dropped(lane, before.h, own, column, panel, first);
    } else {
      pack_rows(before.h.data, before.h.stride, own, column, width, panel, first);
    }
  });
  const bool* not_reset = lane.arguments.not_reset;
  if (not_reset) not_reset += row_of(lane, place);
  for (long i = n.begin; not_reset && i < n.end; ++i) {
    if (!not_reset[i]) panel.clear(at + i - n.begin);
  }
}

// Packs h before each of the rows `n` of all.
template <class T>
void pack_before(const Lane<T>& lane, Range n, long column, const Panel<T>& panel) {
  for (long place = 0; place < lane.steps; ++place) {
    const long row = row_of(lane, place);
    const Range own{max(n.begin - row, 0), min(n.end - row, alive(lane, place))};
    if (own.begin >= own.end) continue;
    pack_before(lane, place, own, column, panel, row + own.begin - n.begin);
  }
}

// A panel of h before it was projected: made again, or a custom cell's last saved column.
template <class T>
void pack_unprojected(const Lane<T>& lane, Range rows, long column, const Panel<T>& panel,
                      long at = 0) {
  const long hidden = lane.hidden;
  if (lane.cell.saves_h) {
    const long saved = lane.cell.saved;
    const long width = saved_width(lane);
    const T* const h = lane.results.gates + width / saved * (saved - 1);
    return pack_rows(h, width, rows, column, hidden - column, panel, at);
  }
  if (lane.options) {
    return pack_rows(lane.options->unprojected, hidden, rows, column, hidden - column, panel, at);
  }
  const long gates = lane.cell.x_gates();
  for (long row = rows.begin; row < rows.end; ++row) {
    for (long n = 0; n < panel.vectors; ++n) {
      const long unit = column + n * W<T>, width = hidden - unit;
      const Vec<T> o = load(lane.results.gates + (gates * row + gates - 1) * hidden + unit, width);
      const Vec<T> c = load(lane.results.c + row * hidden + unit, width);
      panel.put(at + row - rows.begin, n, o * tanh<Sum<T>>(c));
    }
  }
}

template <class T>
void sample_gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                      T* panel);  // see samples.h

template <class T>
void weight_gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                      T* panel) {
  if constexpr (deep<T> == 1) {
    if (gradient.samples > 0) return sample_gradients(worker, lane, gradient, panel);
  }
  const CellShape& shape = lane.cell;
  const long of_ih = shape.x_gates() * lane.hidden * lane.inputs;  // elements
  const long of_both = of_ih + shape.h_gates() * lane.hidden * lane.outputs;
  const Blocks<T> by_x = by_input_of(lane, gradient), by_h = by_recurrent_of(lane, gradient);
  transposed_product(
      worker, by_x, lane.inputs, gradient.weights.w_ih, partial_of(gradient, gradient.weights.w_ih, 0), panel,
      [&](Range n, long column, const Panel<T>& right) {
        pack_rows(lane.arguments.x, lane.inputs, n, column, lane.inputs - column, right);
      },
      [&](long block, Range n) {
        if (deep<T> == 1 && gradient.weights.b_ih) bias_gradient(by_x, block, n, gradient.weights.b_ih);
      });
  transposed_product(
      worker, by_h, lane.outputs, gradient.weights.w_hh,
      partial_of(gradient, gradient.weights.w_hh, of_ih), panel,
      [&](Range n, long column, const Panel<T>& right) {
        pack_before(lane, n, column, right);
      },
      [&](long block, Range n) {
        if (deep<T> == 1 && gradient.weights.b_hh) bias_gradient(by_h, block, n, gradient.weights.b_hh);
      });
  if (lane.cell.inner) inner_gradients(worker, lane, gradient, of_both, panel);
  if (!lane.weights.w_hr) return;
  transposed_product(
      worker, dh_of(lane, gradient), lane.hidden, gradient.weights.w_hr,
      partial_of(gradient, gradient.weights.w_hr, of_both), panel,
      [&](Range n, long column, const Panel<T>& right) {
        pack_unprojected(lane, n, column, right);
      });
}

// The gradients by x's part of the gates, from blocks to where they go: a worker's rows.
template <class T>
void leave_input(const Worker& worker, const Blocks<T>& dgates, const HeadColumns<T>& out) {
  const Range mine = part(dgates.rows, worker.id, worker.count);
  for (long row = mine.begin; row < mine.end; ++row) {
    for (long block = 0; block < dgates.count(); ++block) {
      const long column = dgates.column(block), gate = column / dgates.units;
      T* const to = out.data + row * out.stride + gate * out.gate + column % dgates.units;
      store(to, load(dgates.at(block, row)), dgates.width(block));
    }
  }
}

template <class T>
void gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
               T* panels) {
  T* const panel = panel_of(worker, panels);
  const GradientOfArguments<T>& out = gradient.arguments;
  if (out.dx_part.data) leave_input(worker, by_input_of(lane, gradient), out.dx_part);
  if (out.dx) {
    product(worker, by_input_of(lane, gradient), lane.weights.w_ih, lane.inputs, out.add, out.dx,
            panel);
  }
  if constexpr (deep<T> > 1) {
    worker.sync();
    pair_dgates(worker, lane, gradient);
    worker.sync();
  }
  weight_gradients(worker, lane, gradient, panel);
}

}  // namespace fused_lstm::FL_ISA
