// Runs a printed cell's expressions: loops over a tile's rows, loads and stores.
//
// A printed cell is a struct of expressions alone (see printed/):
//
//   shape       its CellShape
//   sums        vectors of a row in a tile: gates of h, or what the phase's product made
//   step        expressions of the first loop over a tile's rows, forwards
//   finish      expressions of the second one, where there is one
//   back        expressions backwards
//   derive      of a phase behind a sum, expressions of a row: numbers that follow from sums
//
// S is the type of sums.
//
// Rows do not wait for each other: the second loop's functions, which wait for the first's, keep a CPU as
// busy.
#pragma once

#include "cells/functions.h"
#include "cells/options.h"

namespace fused_lstm::FL_ISA {

// Defaults of a printed cell.
struct PrintedCell {
  static constexpr long products = 0;  // inside a step, see InnerProducts
  static constexpr long phase = 0;     // of such a step: 0 begins with R h
  static constexpr long numbers = 0;   // of a row: sums, and what follows from sums alone
  static constexpr long zoneout = 0;   // whether its states are kept in part
  static constexpr long crossing = 0;  // vectors that the first loop leaves for a second; 0: there is none
};

// Returns the part of a row's units that keep their states of the step before. mask: null, or zoneout
// of h or of c.
template <class T>
FL_INLINE Vec<T> part_kept(const StepMask<T>* mask, const Lane<T>& lane, long place, long row,
                           long unit) {
  return mask && mask->values ? load_mask(*mask, lane, place, row, unit) : Vec<T>{};
}

// The mask of zoneout of a cell's states: h's where c is h.
template <class Cell, class T>
FL_INLINE const StepMask<T>* zoneout_of(const Lane<T>& lane) {
  if (!lane.options) return nullptr;
  return Cell::shape.c_is_h ? &lane.options->zoneout_h : &lane.options->zoneout_c;
}

// Returns how far columns that a step saves, and weights of a unit, lie apart.
template <class Cell, class T>
FL_INLINE long column_units(const Lane<T>& lane) {
  return Cell::products ? lane.inner.widest : lane.hidden;
}

// Returns how far states lie apart.
template <class Cell, class T>
FL_INLINE long units_apart(const Lane<T>& lane) {
  return Cell::products ? lane.inner.states : lane.hidden;
}

// Returns where input k begins in a row of all inputs; gate: how long each is that is as wide as h.
template <class Cell, class T>
FL_INLINE long input_at(const Lane<T>& lane, long k, long gate) {
  return Cell::products ? lane.inner.input_at[k] : k * gate;
}

// A row's vector of W units in a step: what a cell reads, and where it leaves what it makes.
template <class Cell, class T>
struct CellRow {
  using S = Sum<T>;
  static constexpr CellShape shape = Cell::shape;
  const CellStep<T>& step;
  const Lane<T>& lane;
  Vec<T>*sums, *more;  // of the row: what products made, and what crosses beside these
  long b, unit, width;
  bool kept;

  // Places of states, and of columns that lie `widest` apart.
  FL_INLINE long of_state(long k) const {
    return (b * shape.states + k) * units_apart<Cell>(lane) + unit;
  }
  FL_INLINE long apart(long columns, long k) const {
    return (b * columns + k) * column_units<Cell>(lane) + unit;
  }
  FL_INLINE Vec<T> sum(long k) const { return sums[k]; }
  FL_INLINE Vec<T> x(long k) const {
    const S* const row = step.input_part + b * step.input_stride + unit;
    return load(row + k * lane.hidden, width);
  }
  FL_INLINE Vec<T> input(long k) const {
    const HeadColumns<const T>& columns = lane.arguments.cell_inputs.columns;
    const T* const of_row = step.own + b * columns.stride;
    if (lane.arguments.cell_inputs.single) return broadcast(S(load(of_row + k * columns.gate, 1)[0]));
    return load(of_row + input_at<Cell>(lane, k, columns.gate) + unit, width);
  }
  FL_INLINE Vec<T> state(long k) const {
    return kept ? load(step.c + of_state(k), width) : Vec<T>{};
  }
  FL_INLINE Vec<T> weight(long k) const {
    return load(lane.options->w_ch + k * column_units<Cell>(lane) + unit, width);
  }
  FL_INLINE Vec<T> saved(long k) const {  // by an earlier phase
    return load(step.gates + apart(shape.saved, k), width);
  }
  FL_INLINE Vec<T> zoneout() const {
    return part_kept<T>(zoneout_of<Cell>(lane), lane, step.place, b, unit);
  }

  // A number of the row, which every unit has; where one is left that the others may read.
  FL_INLINE Vec<T> number(long k) const {
    return broadcast(step.numbers[b * Cell::numbers + k]);
  }
  FL_INLINE Vec<T> share(long k) const { return broadcast(S(lane.inner.share[k])); }
  FL_INLINE void leave(long k, Vec<T> v) const { step.numbers[b * Cell::numbers + k] = v[0]; }
  // Adds units to sum j of the row, or to a maximum of them: of what is saved.
  FL_INLINE void feed(long j, Vec<T> v) const {
    accumulate<S>(total_of_units(lane, step.totals, j, b), v, width);
  }
  FL_INLINE void feed_maximum(long j, Vec<T> v) const {
    S* const most = total_of_units(lane, step.totals, j, b);
    T saved[W<T>];
    store(saved, v, width);
    store(most, maximum<S>(load(most), load(saved, width)), width);
  }

  // Returns the place of a vector for the second loop: where the sums were, then behind.
  FL_INLINE Vec<T>& crossing(long k) const {
    return k < Cell::sums ? sums[k] : more[k - Cell::sums];
  }

  FL_INLINE void after(long k, Vec<T> v) const {
    store(step.c_next + of_state(k), v, width);
  }
  FL_INLINE void save(long k, Vec<T> v) const {
    if (step.gates) store(step.gates + apart(shape.saved, k), v, width);
  }
  FL_INLINE void h(Vec<T> v) const {
    if constexpr (Cell::zoneout) {
      if (lane.options) return leave_made<T>(step, b, unit, v);
    }
    store(step.h + b * step.stride + unit, v, width);
  }

  // The sums of a row that begins anew are of x alone.
  FL_INLINE void reset() const {
    for (long k = 0; k < shape.sums; ++k) sums[k] = x(k);
    for (long k = 0; k < shape.of_h; ++k) {
      const T* const bias = lane.weights.b_m;
      sums[shape.sums + k] = bias ? load(bias + k * lane.hidden + unit, width) : Vec<T>{};
    }
  }
};

// A row's vector of W units in a step backwards: what a cell reads, and where it leaves gradients.
template <class Cell, class T>
struct CellRowBack {
  using S = Sum<T>;
  static constexpr CellShape shape = Cell::shape;
  const CellStepBack<T>& step;
  const Lane<T>& lane;
  const S* before;  // the states of row 0 before the step
  long b, block, unit, width;
  bool kept;
  Vec<T> by_h;  // the gradient by h; in a phase but the last, by what the next product multiplies

  // Places of states, and of columns that lie `widest` apart.
  FL_INLINE long of_state(long k) const {
    return (b * shape.states + k) * units_apart<Cell>(lane) + unit;
  }
  FL_INLINE long apart(long columns, long k) const {
    return (b * columns + k) * column_units<Cell>(lane) + unit;
  }
  FL_INLINE Vec<T> saved(long k) const { return load(step.gates + apart(shape.saved, k), width); }
  FL_INLINE Vec<T> state(long k) const {
    return kept ? load(before + of_state(k), width) : Vec<T>{};
  }
  FL_INLINE Vec<T> after(long k) const {
    return load(step.c_next + of_state(k), width);
  }
  FL_INLINE Vec<T> h() const { return load(step.h + b * step.stride + unit, width); }
  FL_INLINE Vec<T> by_after(long k) const { return load(step.dc + of_state(k), width); }
  FL_INLINE Vec<T> weight(long k) const {
    return load(lane.options->w_ch + k * column_units<Cell>(lane) + unit, width);
  }
  FL_INLINE Vec<T> zoneout() const {
    return part_kept<T>(zoneout_of<Cell>(lane), lane, step.place, b, unit);
  }

  // A number of the row that the step left; the gradient by what sum j adds up, and to what it is added.
  FL_INLINE Vec<T> number(long k) const { return broadcast(step.numbers[b * Cell::numbers + k]); }
  FL_INLINE Vec<T> share(long k) const { return broadcast(S(lane.inner.share[k])); }
  FL_INLINE Vec<T> total(long j) const {
    return broadcast(step.by_sums[b * lane.cell.inner->sums + j]);
  }
  FL_INLINE void feed(long j, Vec<T> v) const {
    accumulate<S>(total_of_units(lane, step.totals, j, b), v, width);
  }

  // By h, and by what products multiply: the k-th that came to a later phase.
  FL_INLINE Vec<T> arrived(long k) const {
    return load(step.arrived + apart(Cell::products, k), width);
  }
  FL_INLINE void arrive(long k) const {
    store(step.arrived + apart(Cell::products, k), by_h, width);
  }
  FL_INLINE void by_product(long product, long column, Vec<T> v) const {
    const Blocks<T> made = made_by(lane, product, step.by_inner[product]);
    store_block(made, column, block, step.line + b, v, width);
  }

  FL_INLINE void by_state(long k, Vec<T> v) const {
    store(step.dc + of_state(k), kept ? v : Vec<T>{}, width);
  }
  FL_INLINE void by_gate(long k, Vec<T> v) const {
    store_block(step.dgates, k, block, step.line + b, v, width);
  }
  FL_INLINE void by_input(long k, Vec<T> v) const {
    const HeadColumns<T>& own = step.by_own;
    const long at = input_at<Cell>(lane, k, own.gate) + unit;
    if (own.data) store(own.data + b * own.stride + at, v, width);
  }
  FL_INLINE void by_weight(long k, Vec<T> v) const {
    accumulate<S>(lane.options->dw_ch + apart(shape.weights, k), v, width);
  }
};

// Calls body(row) for each vector of a tile.
template <class Cell, class T, class Body>
FL_INLINE void for_rows(const CellStep<T>& step, long first, long row, long rows, long blocks,
                        Vec<T>* sums, Vec<T>* more, const Body& body) {
  constexpr long gates = Cell::sums, behind = Cell::crossing - gates;
  for (long block = 0; block < blocks; ++block) {
    const long unit = first + block * W<T>, width = min(step.hidden - unit, W<T>);
    for (long r = 0; r < rows; ++r) {
      const long at = r * blocks + block;
      body(CellRow<Cell, T>{step, *step.lane, sums + at * gates, more + at * max(behind, 0),
                            row + r, unit, width, step.kept(row + r)});
    }
  }
}

template <class Cell, class T>
FL_APART void finish(const CellStep<T>& given, long first, long row, long rows, long blocks,
                     Vec<T>* sums) {
  constexpr long gates = Cell::sums, behind = Cell::crossing - gates;
  constexpr long most = max(largest_tile / max(gates, 1), 32);
  const CellStep<T> step = given;  // a copy: stores do not change it
  Vec<T> more[behind > 0 ? most * behind : 1];
  for_rows<Cell>(step, first, row, rows, blocks, sums, more, [](const CellRow<Cell, T>& at) {
    if (Cell::phase == 0 && !at.kept) at.reset();
    Cell::template step<Sum<T>>(at);
  });
  if constexpr (Cell::crossing > 0) {
    for_rows<Cell>(step, first, row, rows, blocks, sums, more,
                   [](const CellRow<Cell, T>& at) { Cell::template finish<Sum<T>>(at); });
  }
}

// Makes the numbers of some rows that follow from sums.
template <class Cell, class T>
FL_APART void derive(const CellStep<T>& given, long row, long rows) {
  const CellStep<T> step = given;
  for (long b = row; b < row + rows; ++b) {
    const CellRow<Cell, T> at{step, *step.lane, nullptr, nullptr, b, 0, W<T>, true};
    Cell::template derive<Sum<T>>(at);
  }
}

template <class Cell, class T>
FL_APART void finish_back(const CellStepBack<T>& given, long first, long row, long rows,
                          long blocks, const Vec<T>* dh) {
  const CellStepBack<T> step = given;  // a copy: stores do not change it
  for (long b = row; b < row + rows; ++b) {
    const bool kept = step.kept(b);
    const Sum<T>* const before = b < step.continued ? step.c : step.c0;
    for (long block = first; block < first + blocks; ++block, ++dh) {
      const long unit = block * W<T>;
      Cell::template back<Sum<T>>(CellRowBack<Cell, T>{step, *step.lane, before, b, block, unit,
                                                       step.hidden - unit, kept, *dh});
    }
  }
}

template <class T>
FL_INLINE CellFunctions functions_of(Finish<T> finish, FinishBack<T> finish_back) {
  return {reinterpret_cast<void*>(finish), reinterpret_cast<void*>(finish_back)};
}

template <class Cell, class T>
FL_INLINE CellFunctions printed() {
  return functions_of<T>(finish<Cell, T>, finish_back<Cell, T>);
}

}  // namespace fused_lstm::FL_ISA
