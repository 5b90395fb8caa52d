// A step of a lane that normalizes W x and R h over a whole row, and of an LSTM c too. A row's statistics
// are its own, so the workers share out rows here: they meet once more a step, and no more.
//
// A row's products lie as they were made, W x in `input_part` and R h in `by_h`, for the backward
// too, which finds their statistics again.
#pragma once

#include "cells/of_lane.h"

namespace fused_lstm::FL_ISA {

template <class S>
struct Moments {
  S mean, rstd;
};

// Returns the moments of `count` numbers. In two passes: a sum of squares would cancel.
template <class S>
FL_INLINE Moments<S> moments(const S* v, long count) {
  const long most = count / W<S> * W<S>;
  Vec<S> total = {}, squares = {};
  for (long i = 0; i < count; i += W<S>) total += load(v + i, count - i);
  const S mean = sum<S>(total) / count;
  for (long i = 0; i < most; i += W<S>) {
    const Vec<S> d = load(v + i) - mean;
    squares += d * d;
  }
  S square = sum<S>(squares);
  for (long i = most; i < count; ++i) square += (v[i] - mean) * (v[i] - mean);
  const S variance = square / count + S(1e-5);
  if constexpr (sizeof(S) == sizeof(float)) return {mean, 1 / __builtin_sqrtf(variance)};
  return {mean, static_cast<S>(1 / __builtin_sqrt(variance))};
}

template <class S>
FL_INLINE Vec<S> normalized(const S* v, const Moments<S>& of, long width) {
  return (load(v, width) - of.mean) * of.rstd;
}

// Returns one gate before activation, given normalized(W x) and normalized(R h).
template <class T>
FL_INLINE Vec<T> gate_of(const LaneOptions<T>& options, long at, Vec<T> x, Vec<T> h, long width) {
  const Vec<T> a = x * load(options.gain_ih + at, width) + h * load(options.gain_hh + at, width);
  return options.bias ? a + load(options.bias + at, width) : a;
}

template <class T>
FL_INLINE Vec<T> seen_of(const LaneOptions<T>& options, long unit, Vec<T> c, long width) {
  const Vec<T> seen = c * load(options.gain_c + unit, width);
  return options.bias_c ? seen + load(options.bias_c + unit, width) : seen;
}

// --- forwards ---

// made: a worker's memory, [2H].
template <class T>
FL_APART void finish_row(const CellStep<T>& step, long b, const Sum<T>* x, const Sum<T>* h,
                         Sum<T>* made) {
  using S = Sum<T>;
  const LaneOptions<T>& options = *step.lane->options;
  const long hidden = step.hidden;
  const Moments<S> of_x = moments(x, 4 * hidden), of_h = moments(h, 4 * hidden);
  S* const o = made + hidden;
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const long width = min(hidden - unit, W<T>);
    Vec<T> of[4];
    for (long gate = 0; gate < 4; ++gate) {
      const long at = gate * hidden + unit;
      of[gate] = gate_of<T>(options, at, normalized(x + at, of_x, width),
                             normalized(h + at, of_h, width), width);
    }
    Gates<S> a = {of[0], of[1], of[2], of[3]};
    const Vec<T> c = step.kept(b) ? load(step.c + b * hidden + unit, width) : Vec<T>{};
    store(made + unit, step_cell<4, T>(step, b, unit, a, c), width);
    store(o + unit, a.o, width);
  }
  const Moments<S> of_c = moments(made, hidden);
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const long width = min(hidden - unit, W<T>);
    const Vec<T> seen = seen_of<T>(options, unit, normalized(made + unit, of_c, width), width);
    leave_made<T>(step, b, unit, load(o + unit, width) * tanh<S>(seen));
  }
}

// Finishes rows of any other cell by the cell's `finish`, which gets normalized sums. x's part lies in
// `made` where the cell reads it there: of the gates of x alone, and of a row that begins anew. x: W x of
// the place's row 0.
template <class T>
FL_APART void finish_other_rows(CellStep<T> step, Range rows, const Sum<T>* x) {
  using S = Sum<T>;
  const Lane<T>& lane = *step.lane;
  const LaneOptions<T>& options = *lane.options;
  const CellShape& shape = lane.cell;
  const long hidden = step.hidden, gates = shape.h_gates(), of_x = shape.x_gates() * hidden;
  const S* const bias = options.bias;  // of the gates of h alone first
  const S* const bias_x = bias ? bias + shape.of_h * hidden : nullptr;  // of the others
  Moments<S> by_x[rows_abreast], by_h[rows_abreast];
  for (long b = rows.begin; b < rows.end; ++b) {
    const S* const row = x + b * of_x;
    const Moments<S> of = by_x[b - rows.begin] = moments(row, of_x);
    by_h[b - rows.begin] = moments(by_h_of(lane, step.place, b), gates * hidden);
    for (long at = step.kept(b) ? shape.sums * hidden : 0; at < of_x; at += W<T>) {
      const long width = of_x - at;
      Vec<T> a = normalized(row + at, of, width) * load(options.gain_ih + at, width);
      if (bias_x) a += load(bias_x + at, width);
      store(options.made + b * of_x + at, a, width);
    }
  }
  step.finish = cell_finish_of(lane);
  step.input_part = options.made;
  step.input_stride = of_x;
  const long count = rows.end - rows.begin;
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const long width = min(hidden - unit, W<T>);
    Vec<T> sums[rows_abreast * most_gates];
    for (long gate = 0; gate < gates; ++gate) {
      const long at = gate * hidden + unit;
      const bool alone = gate >= shape.sums;  // of h
      Vec<T> add = {};
      if (bias) add = load(alone ? bias + at - shape.sums * hidden : bias_x + at, width);
      const Vec<T> gain_h = load(options.gain_hh + at, width);
      const Vec<T> gain_x = alone ? Vec<T>{} : load(options.gain_ih + at, width);
      for (long r = 0; r < count; ++r) {
        const S* const h = by_h_of(lane, step.place, rows.begin + r);
        Vec<T> sum = normalized(h + at, by_h[r], width) * gain_h + add;
        if (!alone) sum += normalized(x + (rows.begin + r) * of_x + at, by_x[r], width) * gain_x;
        sums[r * gates + gate] = sum;
      }
    }
    step.finish(step, unit, rows.begin, count, 1, sums);
  }
}

// The rows of a place, after their products; x is W x of its row 0. All workers have met.
template <class T>
void finish_rows(const Worker& worker, const Lane<T>& lane, CellStep<T> step, const Sum<T>* x) {
  const Range mine = part(alive(lane, step.place), worker.id, worker.count);
  const CellShape& shape = lane.cell;
  const long of_x = shape.x_gates() * lane.hidden, of_h = shape.h_gates() * lane.hidden;
  Sum<T>* const made = lane.options->own + worker.id * lane.options->own_size;
  for_states_before(lane, step.place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const Range own{max(rows.begin, mine.begin), min(rows.end, mine.end)};
    for (long b = own.begin; b < own.end; ++b) {
      Sum<T>* const h = by_h_of(lane, step.place, b);
      for (long i = 0; !step.kept(b) && i < of_h; ++i) h[i] = 0;
      if (lane.cell.is_lstm) finish_row(step, b, x + b * of_x, h, made);
    }
    if (lane.cell.is_lstm) return;
    for (long b = own.begin; b < own.end; b += rows_abreast) {
      finish_other_rows(step, {b, min(b + rows_abreast, own.end)}, x);
    }
  });
}

// --- backwards ---

// Over a row: of a gradient by normalized(v), and of it times normalized(v).
template <class S>
struct Means {
  S by, along;
};

// The gradient by v from that by normalized(v).
template <class S>
FL_INLINE Vec<S> unnormalized(Vec<S> by, Vec<S> hat, const Means<S>& means, S rstd) {
  return rstd * (by - means.by - hat * means.along);
}

// c's part: from dh, the gradient by normalized(c) in `by_seen`, and by o before activation.
template <class T>
FL_INLINE Means<Sum<T>> row_seen(const CellStepBack<T>& step, long b, const Sum<T>* made,
                                 const Moments<Sum<T>>& of_c, Sum<T>* by_seen, Sum<T>* by_o,
                                 Sum<T>* own) {
  using S = Sum<T>;
  const LaneOptions<T>& options = *step.lane->options;
  const long hidden = step.hidden;
  Vec<T> mean = {}, along = {};
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const long width = min(hidden - unit, W<T>);
    const Vec<T> hat = normalized(made + unit, of_c, width);
    const Vec<T> tanh_c = tanh<S>(seen_of<T>(options, unit, hat, width));
    const Vec<T> o = load(step.gates + (4 * b + 3) * hidden + unit, width);
    const Vec<T> dh = load(options.dh + b * hidden + unit, width);
    const Vec<T> dseen = dh * o * (1 - tanh_c * tanh_c);
    accumulate<S>(own + 12 * hidden + unit, dseen * hat, width);
    accumulate<S>(own + 13 * hidden + unit, dseen, width);
    const Vec<T> by = dseen * load(options.gain_c + unit, width);
    mean += by;
    along += by * hat;
    store(by_seen + unit, by, width);
    store(by_o + unit, dh * tanh_c * o * (1 - o), width);
    if (options.unprojected) {
      store(options.unprojected + (step.line + b) * hidden + unit, o * tanh_c, width);
    }
  }
  return {sum<S>(mean) / hidden, sum<S>(along) / hidden};
}

// From a row of dgates, load_at(block, column, width), to the gradient by one of the two products v.
template <class T, class LoadAt>
FL_INLINE void row_product(const CellStepBack<T>& step, long b, const LoadAt& load_at,
                           const Sum<T>* v, const Sum<T>* gain, Sum<T>* dgain,
                           const Blocks<T>& out) {
  using S = Sum<T>;
  const long all = out.groups * step.hidden;
  const Moments<S> of = moments(v, all);
  Vec<T> mean = {}, along = {};
  for (long block = 0; block < out.count(); ++block) {
    const long width = out.width(block), at = out.column(block);
    if (width <= 0) continue;
    const Vec<T> d = load_at(block, at, width), hat = normalized(v + at, of, width);
    const Vec<T> by = d * load(gain + at, width);
    accumulate<S>(dgain + at, d * hat, width);
    mean += by;
    along += by * hat;
  }
  const Means<S> means = {sum<S>(mean) / all, sum<S>(along) / all};
  for (long block = 0; block < out.count(); ++block) {
    const long width = out.width(block), at = out.column(block);
    if (width <= 0) continue;
    const Vec<T> by = load_at(block, at, width) * load(gain + at, width);
    const Vec<T> hat = normalized(v + at, of, width);
    store_left(out.at(block, step.line + b), unnormalized<S>(by, hat, means, of.rstd), width);
  }
}

// The sums of a row of W x and of R h, and where the gradients by them go.
template <class T>
struct RowProducts {
  const Sum<T> *x, *h;
  Blocks<T> by_x, by_h;
};

// own: a worker's, [20H]: gradients of vectors, then a row's memory.
template <class T>
FL_APART void finish_row_back(const CellStepBack<T>& step, long b, const RowProducts<T>& products,
                              Sum<T>* own) {
  using S = Sum<T>;
  const LaneOptions<T>& options = *step.lane->options;
  const long hidden = step.hidden, all = 4 * hidden;
  const bool kept = step.kept(b);
  const S* const before = step.before(b);
  S *const dgates = own + 14 * hidden, *const by_seen = dgates + all;
  S* const made = by_seen + hidden;
  S* const by_o = dgates;  // until those of a unit are known
  const auto gates_at = [&](long unit) {
    return load_gates<4>(step.gates + b * all + unit, hidden, hidden - unit);
  };
  const auto before_at = [&](long unit) {
    return kept ? load(before + unit, hidden - unit) : Vec<T>{};
  };
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const Vec<T> c = made_of<T>(step, b, unit, gates_at(unit), before_at(unit));
    store(made + unit, c, hidden - unit);
  }
  const Moments<S> of_c = moments(made, hidden);
  const Means<S> means = row_seen(step, b, made, of_c, by_seen, by_o, own);
  for (long unit = 0; unit < hidden; unit += W<T>) {
    const long width = hidden - unit;
    const Vec<T> hat = normalized(made + unit, of_c, width);
    const Vec<T> by_made = unnormalized<S>(load(by_seen + unit, width), hat, means, of_c.rstd);
    Vec<T> dc = load(step.dc + b * hidden + unit, width);
    const Gates<S> d =
        cell_gradients<4, T>(step, b, unit, gates_at(unit), before_at(unit),
                             load(made + unit, width), load(by_o + unit, width), by_made, dc);
    store(step.dc + b * hidden + unit, kept ? dc : Vec<T>{}, width);
    store_gates<4>(d, dgates + unit, hidden, width);
  }
  for (long i = 0; i < all; i += W<T>) accumulate<S>(own + i, load(dgates + i, all - i), all - i);
  const auto load_at = [&](long, long at, long width) { return load(dgates + at, width); };
  row_product(step, b, load_at, products.x, options.gain_ih, own + all, products.by_x);
  row_product(step, b, load_at, products.h, options.gain_hh, own + 2 * all, products.by_h);
}

// Finishes rows of any other cell backwards by the cell's `finish_back`. x: W x of the place's row 0. own:
// a worker's gradients of the bias and of the two gains, then memory for rows of dgates in blocks.
template <class T>
FL_APART void finish_other_rows_back(const CellStepBack<T>& step, Range rows, const Sum<T>* x,
                                     const Blocks<T>& by_x, const Blocks<T>& by_h, Sum<T>* own) {
  using S = Sum<T>;
  const Lane<T>& lane = *step.lane;
  const LaneOptions<T>& options = *lane.options;
  const CellShape& shape = lane.cell;
  const long hidden = step.hidden, count = rows.end - rows.begin;
  const long of_x = shape.x_gates() * hidden, of_h = shape.h_gates() * hidden;
  S *const by_gain_ih = own + shape.gradients() * hidden, *const by_gain_hh = by_gain_ih + of_x;
  CellStepBack<T> own_step = step;
  const Blocks<T> all = own_step.dgates = {reinterpret_cast<T*>(by_gain_hh + of_h),
                                           shape.gradients(), hidden, rows_abreast};
  own_step.line = -rows.begin;
  const FinishBack<T> finish = cell_finish_back_of(lane);
  for (long unit = 0; unit < hidden; unit += W<T>) {
    Vec<T> dh[rows_abreast];
    for (long r = 0; r < count; ++r) {
      dh[r] = load(options.dh + (rows.begin + r) * hidden + unit, hidden - unit);
    }
    finish(own_step, unit / W<T>, rows.begin, count, 1, dh);
  }
  for (long block = 0; block < all.count(); ++block) {
    const long width = all.width(block);
    Vec<T> total = {};
    for (long r = 0; r < count; ++r) total += load(all.at(block, r));
    if (width > 0) accumulate<S>(own + all.column(block), total, width);
  }
  const Blocks<T> from_x = groups_of(all, shape.of_h, shape.x_gates(), 0);
  const Blocks<T> from_h = groups_of(all, 0, shape.h_gates(), shape.sums);  // of h alone first
  for (long r = 0; r < count; ++r) {
    const long b = rows.begin + r;
    const auto of_x_at = [&](long block, long, long width) {
      return load(from_x.at(block, r), width);
    };
    const auto of_h_at = [&](long block, long, long width) {
      return load(from_h.at(block, r), width);
    };
    const S* const h = by_h_of(lane, step.place, b);
    row_product(step, b, of_x_at, x + b * of_x, options.gain_ih, by_gain_ih, by_x);
    row_product(step, b, of_h_at, h, options.gain_hh, by_gain_hh, by_h);
  }
}

// From dh, by h before it was projected, to dgates, of the rows of a place.
template <class T>
void finish_rows_back(const Worker& worker, const Lane<T>& lane, const Blocks<T>& by_x,
                      const Blocks<T>& by_h, const CellStepBack<T>& step) {
  const Range mine = part(alive(lane, step.place), worker.id, worker.count);
  const long width = lane.cell.x_gates() * lane.hidden;
  Sum<T>* const own = lane.options->own + worker.id * lane.options->own_size;
  const Sum<T>* const x = lane.scratch.input_part + step.line * width;  // of the place's row 0
  if (!lane.cell.is_lstm) {
    for (long b = mine.begin; b < mine.end; b += rows_abreast) {
      const Range rows{b, min(b + rows_abreast, mine.end)};
      finish_other_rows_back(step, rows, x, by_x, by_h, own);
    }
    return;
  }
  for (long b = mine.begin; b < mine.end; ++b) {
    const RowProducts<T> products = {x + b * width, by_h_of(lane, step.place, b), by_x, by_h};
    finish_row_back(step, b, products, own);
  }
}

}  // namespace fused_lstm::FL_ISA
