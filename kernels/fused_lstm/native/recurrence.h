// A head: a lane whose input product has been made, with all heads' in one, [N, G*H]. Of each gate it
// has its own units' columns. Heads do not wait for each other.
#pragma once

#include "product/dots.h"
#include "samples.h"
#include "sweep_any.h"

namespace fused_lstm::FL_ISA {

// x's part of the gates of the rows `rows`, brought to where a step reads it, `out` on.
template <class T>
void bring_input(const Worker& worker, const Lane<T>& lane, const HeadColumns<const T>& x, Range rows,
                 Sum<T>* out) {
  const long units = lane.hidden, gates = shape_of(lane.cell).x_gates();
  const Range mine = part(rows.end - rows.begin, worker.id, worker.count);
  for (long n = mine.begin; n < mine.end; ++n) {
    const T* const from = x.data + (rows.begin + n) * x.stride;
    Sum<T>* const to = out + n * lane.input_stride;
    for (long gate = 0; gate < gates; ++gate) {
      for (long unit = 0; unit < units; unit += W<T>) {
        const long width = min(units - unit, W<T>);
        store(to + gate * units + unit, load(from + gate * x.gate + unit, width), width);
      }
    }
  }
}

// All steps: step(place, x's part of the gates of its row 0), between syncs.
template <class T, class Step>
FL_INLINE void recur_steps(const Worker& worker, const Lane<T>& lane, const HeadColumns<const T>& x,
                           const Step& step) {
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    Sum<T>* const input = lane.input_part + (lane.in_place ? rows.begin * lane.input_stride : 0);
    bring_input(worker, lane, x, rows, input);
    worker.sync();
    for (long place = begin; place < end; ++place) {
      step(place, input + (row_of(lane, place) - rows.begin) * lane.input_stride);
      worker.sync();
    }
  }
}

template <int GATES, class T>
void recur_gates(const Worker& worker, const Lane<T>& lane, const HeadColumns<const T>& x,
                 const Scratch<T>& scratch) {
  if constexpr (deep<T> == 1 && !by_terms<T>) {
    if (lane.as_they_lie) {
      return recur_steps(worker, lane, x, [&](long place, const Sum<T>* input) {
        step_forward<Dots<T, T>, GATES>(worker, lane, place, input, lane.w_hh);
      });
    }
  }
  Fma<T>::template pack_gates_of<GATES>(worker, lane.w_hh, recurrent_shape(lane),
                                        scratch.recurrent);
  recur_steps(worker, lane, x, [&](long place, const Sum<T>* input) {
    step_forward<Fma<T>, GATES>(worker, lane, place, input, scratch.recurrent);
  });
}

// Runs a head whose cell is not `in_tiles`.
template <class T>
void recur_any(const Worker& worker, const Lane<T>& lane, const HeadColumns<const T>& x,
               const Scratch<T>& scratch) {
  const WeightShape recurrent = {1, shape_of(lane.cell).h_gates() * lane.hidden, lane.outputs};
  Fma<T>::template pack_gates_of<1>(worker, lane.w_hh, recurrent, scratch.recurrent);
  recur_steps(worker, lane, x, [&](long place, const Sum<T>* input) {
    recurrent_product(worker, lane, recurrent, place, scratch.recurrent);
    worker.sync();
    finish_part(worker, lane, place, input);
  });
}

template <class T>
void recur_forward(const Worker& worker, const Lane<T>& lane, const HeadColumns<const T>& x,
                   const Scratch<T>& scratch) {
  if (!shape_of(lane.cell).in_tiles()) return recur_any(worker, lane, x, scratch);
  with_gates(lane, [&](auto gates) { recur_gates<gates.value>(worker, lane, x, scratch); });
}

// The gradients by x's part of the gates, from blocks to where they go.
template <class T>
void leave_input(const Worker& worker, const Blocks<T>& dgates, const HeadColumns<T>& dx) {
  const Range mine = part(dgates.rows, worker.id, worker.count);
  for (long row = mine.begin; row < mine.end; ++row) {
    for (long block = 0; block < dgates.count(); ++block) {
      const long column = dgates.column(block), gate = column / dgates.units;
      T* const to = dx.data + row * dx.stride + gate * dx.gate + column % dgates.units;
      store(to, load(dgates.at(block, row)), dgates.width(block));
    }
  }
}

template <class T>
void recur_backward(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                    const HeadColumns<T>& dx, const Scratch<T>& scratch) {
  sweep_backward(worker, lane, gradient, scratch);
  worker.sync();
  leave_input(worker, by_input_of(lane, gradient), dx);
  worker.sync();
  gradients(worker, lane, gradient, scratch.panels);  // of w_hh: it has no input
}

}  // namespace fused_lstm::FL_ISA
