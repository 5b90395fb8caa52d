// A lane's forward pass: the input product of many steps at once, then its steps, one after another.
//
// A step is R h, pointwise work, and where a cell has products inside its step (see InnerProducts) a
// product of a value of the step, pointwise work, and so on: phases, between which the workers meet. They
// meet once for two products that do not wait for each other. Each tile of a product is finished by the
// function of its phase while it is in registers. Where a tile has not all gates of h (more than four,
// or a layer norm of them), R h is brought to memory first. Of few inputs a step makes W x too.
#pragma once

#include <algorithm>
#include <limits>

#include "cells/functions.h"
#include "cells/layer_norm.h"
#include "product/step.h"

namespace fused_lstm::FL_ISA {

// Returns the elements of a lane's packed recurrent weights; where its steps make W x too, of those of its
// `inputs`; if h is projected, of the projection's.
template <class T>
long recurrent_size(const WeightShape& recurrent, long inputs, bool projected) {
  const long hidden = recurrent.units, outputs = recurrent.depth;
  const long forward =
      Fma<T>::gates_size(recurrent) + Fma<T>::gates_size({recurrent.gates, hidden, inputs});
  const long backward = Fma<T>::columns_size(recurrent);
  const long projection =
      max(Fma<T>::columns_size({1, hidden, outputs}), Fma<T>::columns_size({1, outputs, hidden}));
  return max(forward, backward) + (projected ? projection : 0);
}

// --- the input product: gates[n] = x[n] W_ih' + b for the rows n of `chunk` steps ---

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

// Returns the rows as a matrix unit reads them: the workers share them out.
template <class T>
Rows<T> ready_inputs(const Worker& worker, const Lane<T>& lane, Rows<T> x, long count) {
  if constexpr (by_unit<T>) {
    const long stride = ready_stride<T>(lane.inputs);
    const Range mine = part(count, worker.id, worker.count);
    make_ready(x.data + mine.begin * x.stride, x.stride, mine.end - mine.begin, lane.inputs,
               lane.scratch.ready + mine.begin * stride);
    worker.sync();
    return {lane.scratch.ready, stride};
  } else {
    return x;
  }
}

// Makes the input product of the rows `rows`; the first one goes to `gates`. All gates' columns are one
// matrix's here, whichever gate they are of.
template <class T>
void input_product(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* gates, T* panel) {
  const WeightShape shape{1, lane.cell.x_gates() * lane.hidden, lane.inputs};
  const long count = rows.end - rows.begin, stride = lane.scratch.input_stride;
  const Rows<T> given{lane.arguments.x + rows.begin * lane.inputs, lane.inputs};
  const Rows<T> x = ready_inputs(worker, lane, given, count);
  UnitScope scope;
  TileMemory<T> memory;
  for_shares(worker, count, blocks_of<T>(shape.units), plain_tile.vectors, plain_tile.rows, false,
             [&](const Share& share) {
    const long column = share.first * W<T>, width = shape.units - column;
    for (long first = 0; first < lane.inputs; first += panel_depth<T>) {
      const long depth = min(lane.inputs - first, panel_depth<T>);
      pack_gates(lane.weights.w_ih, shape, column, share.vectors, first, depth, panel);
      for_heights(plain_tile.rows, share, {0, count}, [&](long height, long row) {
        const Sums<T> tile = memory.of(height, share.vectors);
        Sum<T>* const target = gates + row * stride + column;
        const T* const left = x.data + row * x.stride + first;
        scope.configure(height);
        const Place<T> from =
            first > 0 ? load_gates(tile, 1, target, stride, shape.units, width)
                      : load_bias(tile, lane, 1, shape.units, column);
        if constexpr (by_unit<T>) {
          bring(tile, from);
          multiply_ready(tile, left, x.stride, depth, panel);
        } else {
          const Place<T> to = {target, stride, W<T>};
          const bool all = tile.vectors * W<T> <= width;  // exist
          multiply_rows(tile, from, all ? to : place_of(tile), left, x.stride, depth, panel);
          if (all) return;
        }
        store(tile, target, stride, width);
      });
    }
  });
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

// Returns where x's part of the gates of a chunk's rows goes.
template <class T>
FL_INLINE Sum<T>* input_of(const Lane<T>& lane, Range rows) {
  return lane.scratch.input_part + (lane.in_place ? rows.begin * lane.scratch.input_stride : 0);
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

// A step that makes its input product too, of a lane that neither normalizes nor is reset.
// input_part: of a GRU, where the input's part of the step's gates goes.
template <class T>
void whole_step(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* input_part,
                const Packed<T>& packed) {
  const WeightShape shape = recurrent_shape(lane);
  const long inputs = lane.inputs, gates = shape.gates;
  const long size = Fma<T>::gates_size({gates, W<T>, inputs});
  const Rows<T> x{lane.arguments.x + row_of(lane, place) * inputs, inputs};
  CellStep<T> step = cell_step<T>(lane, place, input_part);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const Rows<T> left = Fma<T>::ready(worker, lane, before.fed, lane.outputs, rows);
    const Rows<T> fed = Fma<T>::ready(worker, lane, x, inputs, rows, lane.outputs);
    Fma<T>::gates(
        worker, left, rows, shape, packed.recurrent, place % 2,
        [&](const Sums<T>& tile, long unit, long row) {
          if (lane.save) prefetch_saved(tile, lane, row_of(lane, place) + row, unit);
          const Place<T> bias = load_bias(tile, lane, gates, lane.hidden, unit);
          const T* const own = fed.data + row * fed.stride;
          const T* const panel = packed.input + unit / W<T> * size;
          if constexpr (by_unit<T>) {
            bring(tile, bias);
            multiply_ready(tile, own, fed.stride, inputs, panel);
          } else {
            multiply_rows(tile, bias, own, fed.stride, inputs, panel);
          }
          if (gates > 1 && lane.cell.apart()) {
            leave_n(tile, lane, input_part, unit, row);
          }
          return place_of(tile);
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

// --- a step whose gates of h do not all lie in a tile ---
//
// R h is brought to memory, all gates' rows as one matrix, and the cell reads it there, after one more
// meeting of the workers. If no gate has a part by h, there is no product, and no meeting within a chunk: a
// worker keeps its rows and units.

// Rows of a step by blocks of units.
struct Part {
  Range rows, blocks;
};

// A worker's part of any step: blocks where there are enough, else rows.
template <class T>
FL_INLINE Part part_of_steps(const Worker& worker, const Lane<T>& lane) {
  const long blocks = blocks_of<T>(lane.hidden);
  if (blocks >= worker.count) return {{0, lane.batch}, part(blocks, worker.id, worker.count)};
  return {part(lane.batch, worker.id, worker.count), {0, blocks}};
}

// From x's part of a step's gates, and h's in lane.scratch.product, to the cell's results.
template <class T>
void finish_part(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part) {
  constexpr long tallest = 8;  // rows at once, whose sums lie in the L1 cache
  const CellShape& shape = lane.cell;
  const long hidden = lane.hidden, gates = shape.h_gates();
  const Part mine = part_of_steps(worker, lane);
  begin_sums(worker, lane, false);
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const long end = min(rows.end, mine.rows.end);
    for (long block = mine.blocks.begin; block < mine.blocks.end; ++block) {
      const long unit = block * W<T>, width = min(hidden - unit, W<T>);
      for (long first = max(rows.begin, mine.rows.begin); first < end; first += tallest) {
        const long count = min(end - first, tallest);
        Vec<T> sums[tallest * most_gates];
        for (long r = 0; r < count; ++r) {
          const Sum<T>* const x = input_part + (first + r) * lane.scratch.input_stride + unit;
          const Sum<T>* const h = lane.scratch.product + (first + r) * gates * hidden + unit;
          for (long gate = 0; gate < gates; ++gate) {
            const long m = gate - shape.sums;
            Vec<T> other = {};
            if (m < 0) {
              other = load(x + gate * hidden, width);
            } else if (lane.weights.b_m) {
              other = load(lane.weights.b_m + m * hidden + unit, width);
            }
            sums[r * gates + gate] = load(h + gate * hidden, width) + other;
          }
        }
        step.finish(step, unit, first, count, 1, sums);
      }
    }
  });
}

// Stores sums of a tile to where h w_hh' of a place's row lies; apart, so that they stay in registers
// until then.
template <class T>
FL_APART void keep_product(const Lane<T>& lane, long place, long columns, long column, long row,
                           long rows, long vectors, const Vec<T>* sums) {
  for (long b = row; b < row + rows; ++b) {
    Sum<T>* const of_row = lane.scratch.by_h ? by_h_of(lane, place, b) : lane.scratch.product + b * columns;
    Sum<T>* const to = of_row + column;
    for (long n = 0; n < vectors; ++n) store(to + n * W<T>, *sums++, columns - column - n * W<T>);
  }
}

// h w_hh' of a step, to lane.scratch.product, or where the lane normalizes it to lane.scratch.by_h.
template <class T>
void recurrent_product(const Worker& worker, const Lane<T>& lane, const WeightShape& shape,
                       long place, const T* packed) {
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    Fma<T>::gates(
        worker, Fma<T>::ready(worker, lane, before.fed, lane.outputs, rows), rows, shape, packed, place % 2,
        [](const Sums<T>&, long, long) { return Place<T>{}; },
        [&](const Sums<T>& tile, long unit, long row) {
          keep_product(lane, place, shape.units, unit, row, tile.rows, tile.vectors, tile.data);
        });
  });
}

// Weights of all gates as one matrix.
template <class T>
FL_INLINE WeightShape flat_recurrent(const Lane<T>& lane) {
  return {1, lane.cell.h_gates() * lane.hidden, lane.outputs};
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

// --- all steps ---

// How a lane computes its steps, and the weights that it packs for them.
template <class T>
struct Steps {
  const bool tiles;  // hold all gates of h; else R h is brought to memory first
  const WeightShape recurrent;
  const bool meets;
  const Packed<T> packed;
  T* behind;  // w_hh and what else a step multiplies with

  Steps(const Worker& worker, const Lane<T>& lane, T* memory)
      : tiles(lane.cell.in_tiles() ||
              (lane.cell.h_gates() > 0 && lane.cell.h_gates() <= 4 && !lane.scratch.by_h)),
        recurrent(tiles ? recurrent_shape(lane) : flat_recurrent(lane)),
        meets(recurrent.units > 0 || lane.options || lane.cell.inner),
        packed{memory, memory + Fma<T>::gates_size(recurrent)},
        behind(packed.input) {
    if (recurrent.units > 0) Fma<T>::pack_gates_of(worker, lane.weights.w_hh, recurrent, memory);
    if (lane.input_in_step) Fma<T>::pack_gates_of(worker, lane.weights.w_ih, input_shape(lane), packed.input);
    for (long k = 0; k < lane.cell.phases_inside(); ++k) {
      if (!lane.cell.inner->is_product(k)) continue;
      Fma<T>::pack_gates_of(worker, lane.weights.w_inner[k], inner_shape(lane, k), behind);
      behind += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }

  void input(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* out, T* panel) const {
    if (!lane.input_in_step) input_product(worker, lane, rows, out, panel);
  }

  void run(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* x) const {
    if (lane.input_in_step) return whole_step(worker, lane, place, x, packed);
    if (tiles) {
      step_forward<Fma<T>>(worker, lane, place, first_sums(lane, x), packed.recurrent);
    } else {
      if (recurrent.units > 0) recurrent_product(worker, lane, recurrent, place, packed.recurrent);
      if (lane.scratch.by_h) return;
      if (recurrent.units > 0) worker.sync();
      finish_part(worker, lane, place, x);
    }
    if (lane.cell.inner) early_phases(worker, lane, place, x);
    const T* weight = packed.input;
    for (long k = 0, next; k < lane.cell.phases_inside(); k = next) {
      const InnerProducts& inner = *lane.cell.inner;
      if (inner.meets[k]) worker.sync();
      if (inner.is_product(k)) {
        inner_phase<Fma<T>>(worker, lane, place, k, x, weight);
        weight += Fma<T>::gates_size(inner_shape(lane, k));
        next = k + 1;
      } else {
        next = end_of_sums(inner, k);
        sum_phases(worker, lane, place, k, next, x);
      }
    }
  }
};

// Runs a lane.
template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  const Steps<T> steps(worker, lane, scratch.recurrent);
  if (lane.weights.w_hr) {
    Fma<T>::pack_transposed_of(worker, lane.weights.w_hr, lane.hidden, lane.outputs, steps.behind);
  }
  draw_masks(worker, lane, 0);
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    Sum<T>* const input = input_of(lane, rows);
    if (lane.arguments.x_part.data) {
      bring_input(worker, lane, rows, input);
    } else {
      steps.input(worker, lane, rows, input, panel_of(worker, scratch.panels));
    }
    worker.sync();
    for (long place = begin; place < end; ++place) {
      Sum<T>* const x = lane.input_in_step
                            ? lane.scratch.input_part
                            : input + (row_of(lane, place) - rows.begin) * lane.scratch.input_stride;
      steps.run(worker, lane, place, x);
      draw_masks(worker, lane, place + 1);
      if (steps.meets) worker.sync();
      if (lane.scratch.by_h) {  // whose products are normalized, row by row
        finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
        worker.sync();
      }
      if (!lane.weights.w_hr) continue;
      project<Fma<T>>(worker, lane, place, steps.behind);
      worker.sync();
    }
    if (!steps.meets) worker.sync();  // the next chunk's input is written over this one's
  }
}

}  // namespace fused_lstm::FL_ISA
