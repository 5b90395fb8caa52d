// A step of a lane's forward pass, with weights as they lie, packed for the call, or packed before it.
//
// A step is R h, pointwise work, and where a cell has products inside its step (see InnerProducts) a
// product of a value of the step, pointwise work, and so on: phases, between which the workers meet. They
// meet once for two products that do not wait for each other. Each tile of a product is finished by the
// function of its phase while it is in registers. Of few inputs a step makes W x too.
#pragma once

#include <limits>

#include "cells/functions.h"
#include "cells/of_lane.h"
#include "cells/options.h"
#include "product/step.h"

namespace fused_lstm::FL_ISA {

// --- x's part of the gates ---

// W columns of the input's part of the gates: both biases where h has a part in a gate, except where
// that is apart, as a GRU's m.
template <class T>
FL_INLINE Vec<T> bias_of(const Lane<T>& lane, long at, long width) {
  if (!lane.weights.b_ih) return Vec<T>{};
  const Vec<T> bias = load(lane.weights.b_ih + at, width);
  const long both = min(lane.cell.sums * lane.hidden - at, width);
  return both > 0 ? bias + load(lane.weights.b_hh + at, both) : bias;
}

// units: of a gate. Every row's sums begin with the first row of the tile's memory.
template <class T>
FL_INLINE Place<T> load_bias(const Sums<T>& tile, const Lane<T>& lane, long gates, long units,
                             long unit) {
  Vec<T>* sum = tile.data;
  for (long first = unit; sum < tile.data + tile.vectors; first += W<T>) {
    for (long gate = 0; gate < gates; ++gate) {
      *sum++ = bias_of(lane, gate * units + first, min(units - first, W<T>));
    }
  }
  return {place_of(tile).data, 0, W<T>};
}

// Brings x's part of the gates of the rows `rows`, which was made before the call, to where a step
// reads it, the first row to `out`: a worker's rows.
template <class T>
void bring_input(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* out) {
  const HeadColumns<const T>& given = lane.arguments.x_part;
  const long units = lane.hidden, gates = lane.cell.x_gates();
  const Range mine = part(rows.end - rows.begin, worker.id, worker.count);
  for (long n = mine.begin; n < mine.end; ++n) {
    const T* const from = given.data + (rows.begin + n) * given.stride;
    Sum<T>* const to = out + n * lane.scratch.input_stride;
    for (long gate = 0; gate < gates; ++gate) {
      for (long unit = 0; unit < units; unit += W<T>) {
        const long width = min(units - unit, W<T>);
        store(to + gate * units + unit, load(from + gate * given.gate + unit, width), width);
      }
    }
  }
}

// --- a step ---

// Tells the cell of a place where its operands lie; `input_part` is that of its row 0.
template <class T>
FL_INLINE CellStep<T> cell_step(const Lane<T>& lane, long place, const Sum<T>* input_part) {
  const long row = row_of(lane, place), hidden = lane.hidden;
  CellStep<T> step{};
  step.lane = &lane;
  step.finish = finish_of(lane);
  step.place = place;
  step.hidden = hidden;
  step.not_reset = lane.arguments.not_reset ? lane.arguments.not_reset + row : nullptr;
  step.input_part = input_part;
  step.input_stride = lane.scratch.input_stride;
  step.own = lane.arguments.cell_inputs.columns.data + row * lane.arguments.cell_inputs.columns.stride;
  if (lane.results.numbers) {
    step.numbers = lane.results.numbers + lane.save * row * lane.cell.inner->numbers;
  }
  step.gates = lane.save ? lane.results.gates + row * saved_width(lane) : lane.results.gates;
  step.c_next = lane.save ? lane.results.c + row * c_width(lane) : lane.results.c;
  step.h = lane.scratch.unprojected ? lane.scratch.unprojected : lane.results.y + row * lane.results.y_stride;
  step.stride = lane.scratch.unprojected ? hidden : lane.results.y_stride;
  return step;
}

template <class T>
FL_INLINE void finish_cell(const CellStep<T>& step, long unit, long row, const Sums<T>& sums,
                           long gates) {
  step.finish(step, unit, row, sums.rows, sums.blocks(gates), sums.data);
}

// Loads what a step's sums begin with, given the input's part of the gates of its row 0. A GRU's m is
// of h alone; what is to be normalized is alone too.
template <class T>
FL_INLINE Place<T> load_first(const Sums<T>& tile, const Lane<T>& lane, long gates,
                          const Sum<T>* input_part, long unit, long row) {
  const long hidden = lane.hidden, width = min(hidden - unit, tile.blocks(gates) * W<T>);
  const long stride = lane.scratch.by_h ? gates * hidden : lane.scratch.input_stride;
  Place<T> from =
      load_gates(tile, gates, input_part + row * stride + unit, stride, hidden, width);
  if (gates == 1 || !lane.cell.apart() || lane.scratch.by_h) return from;
  const Vec<T> m = lane.weights.b_m ? load(lane.weights.b_m + unit, width) : Vec<T>{};
  if (from.data == place_of(tile).data) {
    for (long r = 0; r < tile.rows; ++r) tile[r][gates - 1] = m;
  } else {
    tile.data[0] = m;
    from.last = place_of(tile).data;
  }
  return from;
}

// Loads what the sums of R h begin with: x's part of a gate, or the bias of one that is of h alone.
template <class T>
FL_INLINE Place<T> load_begins(const Sums<T>& tile, const Lane<T>& lane, long gates,
                               const Sum<T>* input_part, long unit, long row) {
  const long hidden = lane.hidden, sums = lane.cell.sums;
  Vec<T>* sum = tile.data;
  for (long r = 0; r < tile.rows; ++r) {
    const Sum<T>* const x = input_part + (row + r) * lane.scratch.input_stride;
    for (long first = unit; first < unit + tile.blocks(gates) * W<T>; first += W<T>) {
      for (long gate = 0; gate < gates; ++gate) {
        const long at = gate * hidden + first, width = hidden - first;
        if (gate < sums) {
          *sum++ = load(x + at, width);
        } else {
          *sum++ = lane.weights.b_m ? load(lane.weights.b_m + at - sums * hidden, width) : Vec<T>{};
        }
      }
    }
  }
  return place_of(tile);
}

// Lets a worker's sums of a step begin: no other reads those of the step before any more.
template <class T>
FL_INLINE void begin_sums(const Worker& worker, const Lane<T>& lane, bool is_back) {
  if (!lane.scratch.totals) return;
  const InnerProducts& inner = *lane.cell.inner;
  for (long k = 0; k < inner.count; ++k) {
    if (inner.is_product(k)) continue;
    const bool is_maximum = inner.kind[k] == InnerKind::maximum && !is_back;
    const Sum<T> none = is_maximum ? -std::numeric_limits<Sum<T>>::infinity() : Sum<T>(0);
    Sum<T>* const own = total_of_units(lane, totals_of(lane, worker.id), inner.number[k], 0);
    for (long b = 0; b < lane.batch; ++b) store(own + b * W<T>, broadcast(none));
  }
}

// Runs a step with weights as Multiply takes them: packed, or as they lie.
template <class Multiply, class T, class E>
void step_forward(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part,
                  const E* weight) {
  begin_sums(worker, lane, false);
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  const WeightShape shape = recurrent_shape(lane);
  const long gates = shape.gates;
  const bool plain = lane.cell.in_tiles();
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const auto left = Multiply::ready(worker, lane, before.fed, lane.outputs, rows);
    // Back and forth through the weights: what the last step used last is still in cache.
    Multiply::gates(
        worker, left, rows, shape, weight, place % 2,
        [&](const Sums<T>& tile, long unit, long row) {
          if (!plain) return load_begins(tile, lane, gates, input_part, unit, row);
          const long stride = lane.scratch.input_stride, next = tile.blocks(gates) * W<T>;
          const Sum<T>* const begins = input_part + row * stride + unit;
          prefetch_gates(tile, gates, begins + (place % 2 ? -next : next), stride, lane.hidden);
          return load_first(tile, lane, gates, input_part, unit, row);
        },
        [&](const Sums<T>& tile, long unit, long row) {
          finish_cell(step, unit, row, tile, gates);
        });
  });
}

// A lane's weights, packed for a step.
template <class T>
struct Packed {
  T *recurrent, *input;
};

// From sums of x's product alone to what h's begins with.
template <class T>
FL_INLINE void leave_n(const Sums<T>& tile, const Lane<T>& lane, Sum<T>* input_part, long unit,
                       long row) {
  const long last = tile.vectors - 1;
  const long width = min(lane.hidden - unit, W<T>);
  Sum<T>* const n = input_part + row * lane.scratch.input_stride + last * lane.hidden + unit;
  const Vec<T> m = lane.weights.b_m ? load(lane.weights.b_m + unit, width) : Vec<T>{};
  for (long r = 0; r < tile.rows; ++r) {
    store(n + r * lane.scratch.input_stride, tile[r][last], width);
    tile[r][last] = m;
  }
}

// Begins to fetch where a tile's columns are saved, which nothing has read.
template <class T>
FL_INLINE void prefetch_saved(const Sums<T>& tile, const Lane<T>& lane, long row, long unit) {
  for (long r = row; r < row + tile.rows; ++r) {
    for (long k = 0; k < lane.cell.saved; ++k) {
      __builtin_prefetch(lane.results.gates + r * saved_width(lane) + k * lane.hidden + unit, 1);
    }
  }
}

// A step that makes its input product too, of a lane that neither normalizes nor is reset. Weights are
// as Multiply takes them. input_part: of a GRU, where the input's part of the step's gates goes.
template <class Multiply, class T, class E>
void whole_step(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* input_part,
                const E* w_ih, const E* w_hh) {
  const WeightShape shape = recurrent_shape(lane);
  const long inputs = lane.inputs, gates = shape.gates;
  const Rows<T> x{lane.arguments.x + row_of(lane, place) * inputs, inputs};
  CellStep<T> step = cell_step<T>(lane, place, input_part);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const auto left = Multiply::ready(worker, lane, before.fed, lane.outputs, rows);
    const auto fed = Multiply::ready(worker, lane, x, inputs, rows, lane.outputs);
    Multiply::gates_of_two(
        worker, fed, inputs, w_ih, left, rows, shape, w_hh, place % 2,
        [&](const Sums<T>& tile, long unit, long row) {
          if (lane.save) prefetch_saved(tile, lane, row_of(lane, place) + row, unit);
          return load_bias(tile, lane, gates, lane.hidden, unit);
        },
        [&](const Sums<T>& tile, long unit, long row) {
          if (gates > 1 && lane.cell.apart()) leave_n(tile, lane, input_part, unit, row);
        },
        [&](const Sums<T>& tile, long unit, long row) {
          finish_cell(step, unit, row, tile, gates);
        });
  });
}

// y = unprojected w_hr', of a step.
template <class Multiply, class T, class E>
void project(const Worker& worker, const Lane<T>& lane, long place, const E* weight) {
  T* const y = lane.results.y + row_of(lane, place) * lane.results.y_stride;
  Multiply::columns(worker, Rows<T>{lane.scratch.unprojected, lane.hidden}, {0, alive(lane, place)},
                    lane.hidden, lane.outputs, weight,
                    [&](const Sums<T>& tile, long first, long row) {
    const long column = first * W<T>;
    if (lane.options) return leave_tile(lane, place, column, row, tile);
    store(tile, y + row * lane.results.y_stride + column, lane.results.y_stride, lane.outputs - column);
  });
}

// Returns what a step's sums begin with, given the input's part of the gates of its rows.
template <class T>
FL_INLINE const Sum<T>* first_sums(const Lane<T>& lane, const Sum<T>* input_part) {
  return lane.scratch.by_h ? lane.options->zeros : input_part;
}

// --- products inside a step ---

// The functions of the phases around product k.
template <class T>
FL_INLINE CellFunctions functions_around(const Lane<T>& lane, long k) {
  return lane.cell.inner->functions[static_cast<long>(factors_of<T>)][k];
}

template <class T>
FL_INLINE WeightShape inner_shape(const Lane<T>& lane, long k) {
  return {lane.cell.inner->columns[k], lane.inner.units[k], lane.inner.depth[k]};
}

// Returns what product k multiplies, given row 0 of what is saved.
template <class T>
FL_INLINE Rows<T> fed_of(const Lane<T>& lane, long k, const T* gates) {
  return {gates + lane.cell.inner->fed[k] * lane.inner.widest, saved_width(lane)};
}

// --- sums of a row's units ---
//
// A phase adds what is summed to a vector of its worker's own for each row. A phase behind a sum is divided by
// rows: a worker adds up all workers' vectors of its rows, and has all units of these.

// Returns sum k of a row, of all workers' vectors.
template <class T>
FL_INLINE Sum<T> total_of(const Worker& worker, const Lane<T>& lane, long k, long b) {
  const InnerProducts& inner = *lane.cell.inner;
  const long size = inner.totals_size(lane.batch, W<T>);
  const Sum<T>* const from = total_of_units(lane, lane.scratch.totals, inner.number[k], b);
  Vec<T> total = load(from);
  if (inner.kind[k] == InnerKind::sum) {
    for (long other = 1; other < worker.count; ++other) total += load(from + other * size);
    return sum<Sum<T>>(total);
  }
  for (long other = 1; other < worker.count; ++other) {
    total = maximum<Sum<T>>(total, load(from + other * size));
  }
  for (long n = 1; n < W<T>; ++n) total = maximum<Sum<T>>(total, broadcast(Sum<T>(total[n])));
  return total[0];
}

// Calls body(block, blocks) for so many blocks of a row as a cell takes at once.
template <class T, class Body>
FL_INLINE void for_blocks(Range blocks, const Body& body) {
  constexpr long most = 32;
  for (long block = blocks.begin; block < blocks.end; block += most) {
    body(block, min(blocks.end - block, most));
  }
}

// Runs a step from sum `first` to what product `end` multiplies, or to the step's end: a worker's rows, each
// through all phases between.
template <class T>
void sum_phases(const Worker& worker, const Lane<T>& lane, long place, long first, long end,
                const Sum<T>* input_part) {
  const InnerProducts& inner = *lane.cell.inner;
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  const Range mine = part(alive(lane, place), worker.id, worker.count);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    for (long row = max(rows.begin, mine.begin); row < min(rows.end, mine.end); ++row) {
      for (long k = first; k < end; ++k) {
        const CellFunctions functions = functions_around(lane, k);
        const auto finish = reinterpret_cast<Finish<T>>(functions.finish);
        step.numbers[row * inner.numbers + inner.number[k]] = total_of(worker, lane, k, row);
        reinterpret_cast<Derive<T>>(functions.derive)(step, row, 1);
        if (!inner.works[k]) continue;
        step.hidden = lane.inner.units[k];
        for_blocks<T>({0, blocks_of<T>(step.hidden)}, [&](long block, long blocks) {
          finish(step, block * W<T>, row, 1, blocks, nullptr);
        });
      }
    }
  });
}

// Runs a step's early phases: a worker's units of each row.
template <class T>
void early_phases(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part) {
  const InnerProducts& inner = *lane.cell.inner;
  if (inner.early == 0) return;
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  for (long k = 0; k < inner.early; ++k) {
    const CellFunctions functions = inner.early_functions[static_cast<long>(factors_of<T>)][k];
    const auto finish = reinterpret_cast<Finish<T>>(functions.finish);
    step.hidden = lane.inner.early[k];
    const Range mine = part(blocks_of<T>(step.hidden), worker.id, worker.count);
    for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
      step.c = before.c;
      for (long row = rows.begin; row < rows.end; ++row) {
        for_blocks<T>(mine, [&](long block, long blocks) {
          finish(step, block * W<T>, row, 1, blocks, nullptr);
        });
      }
    });
  }
}

// Returns the end of the sums from k on for which the workers do not meet.
FL_INLINE long end_of_sums(const InnerProducts& inner, long k) {
  long end = k + 1;
  while (end < inner.count && !inner.is_product(end) && !inner.meets[end]) ++end;
  return end;
}

// --- products ---

// A step from product k to what the next one multiplies, or to its end.
template <class Multiply, class T, class E>
void inner_phase(const Worker& worker, const Lane<T>& lane, long place, long k,
                 const Sum<T>* input_part, const E* weight) {
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  step.finish = reinterpret_cast<Finish<T>>(functions_around(lane, k).finish);
  const WeightShape shape = inner_shape(lane, k);
  step.hidden = shape.units;
  const Rows<T> fed = fed_of<T>(lane, k, step.gates);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const auto left = Multiply::ready(worker, lane, fed, shape.depth, rows);
    Multiply::gates(
        worker, left, rows, shape, weight, (place + k) % 2,
        [](const Sums<T>&, long, long) { return Place<T>{}; },
        [&](const Sums<T>& tile, long unit, long row) {
          finish_cell(step, unit, row, tile, shape.gates);
        });
  });
}

}  // namespace fused_lstm::FL_ISA
