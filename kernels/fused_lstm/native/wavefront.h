// fuse="layers" where a step is too small to divide: layer l computes step t while the layer above
// computes step t - 1, each layer whole on one worker. Workers meet once for each diagonal of the
// (layer, step) plane, not once for each step of each layer.
//
// A step here makes its input product too: the layer below has only just made the input. Lanes are
// of equal lengths and one direction, and nothing is projected or kept back.
#pragma once

#include "philox.h"
#include "samples.h"

namespace fused_lstm::FL_ISA {

constexpr Worker alone{};

// For each layer, w_hh packed and then w_ih; forward and backward pack in different orders.
template <class T>
long wavefront_size(const WeightShape& input) {
  return recurrent_size<T>({input.gates, input.units, input.units}, 0, false) +
         max(Fma<T>::gates_size(input), Fma<T>::columns_size(input));
}

template <class T>
FL_INLINE Packed<T> packed_of(const Wavefront<T>& wave, long index) {
  T* const recurrent = wave.packed + index * wave.packed_size;
  return {recurrent, recurrent + recurrent_size<T>(recurrent_shape(wave.lanes[index]), 0, false)};
}

// --- forward ---

template <class T>
void pack_forward(const Lane<T>& lane, const Packed<T>& packed) {
  Fma<T>::pack_gates_of(alone, lane.weights.w_ih, input_shape(lane), packed.input);
  Fma<T>::pack_gates_of(alone, lane.weights.w_hh, recurrent_shape(lane), packed.recurrent);
}

template <class T>
void wavefront_forward(const Worker& worker, const Wavefront<T>& wave) {
  const long top = wave.count - 1, steps = wave.lanes[0].steps;
  for (long index = worker.id; index <= top; index += worker.count) {
    pack_forward(wave.lanes[index], packed_of(wave, index));
  }
  for (long tick = 0; tick < steps + top; ++tick) {
    for (long index = worker.id; index <= top; index += worker.count) {
      const Lane<T>& lane = wave.lanes[index];
      const long t = tick - index;
      if (t < 0 || t >= steps) continue;
      draw_masks(alone, lane, t);
      const Packed<T> packed = packed_of(wave, index);
      whole_step<Fma<T>>(alone, lane, t, lane.scratch.input_part, packed.input, packed.recurrent);
      if (index == top || !wave.dropped) continue;
      const long at = row_of(lane, t) * lane.hidden;
      const long first = index * rows_in(lane) * lane.hidden + at;
      dropout(alone, lane.batch * lane.hidden, first, wave.dropout, lane.results.y + at,
              wave.dropped + first);
    }
    worker.sync();
  }
}

// --- backward ---

template <class T>
void pack_backward(const Lane<T>& lane, const LaneGradient<T>& gradient, const Packed<T>& packed) {
  Fma<T>::pack_columns_of(alone, lane.weights.w_hh, by_recurrent_of(lane, gradient), lane.outputs,
                          panels_of(alone, lane, lane.outputs), packed.recurrent);
  Fma<T>::pack_columns_of(alone, lane.weights.w_ih, by_input_of(lane, gradient), lane.inputs,
                          panels_of(alone, lane, lane.inputs), packed.input);
}

// dx = dgates w_ih, of one step.
template <class T>
void input_gradient(const Lane<T>& lane, const LaneGradient<T>& gradient, long t, const T* packed,
                    Sum<T>* dx, Sum<T>* sums) {
  const long row = row_of(lane, t), inputs = lane.inputs;
  Fma<T>::columns(alone, by_input_of(lane, gradient), row, {0, lane.batch}, inputs,
                  panels_of(alone, lane, inputs), packed, false, sums,
                  [&](const Sums<T>& tile, long first, long b) {
    const long column = first * W<T>;
    store(tile, dx + b * inputs + column, inputs, inputs - column);
  });
}

// t = -1 is the step before the first, where there is only dh0.
template <class T>
void whole_step_back(const Wavefront<T>& wave, long index, long t, Sum<T>* sums) {
  const Lane<T>& lane = wave.lanes[index];
  const LaneGradient<T>& gradient = wave.gradients[index];
  const Packed<T> packed = packed_of(wave, index);
  draw_masks(alone, lane, t);
  step_backward(alone, lane, gradient, t, packed.recurrent, sums);
  if (t < 0 || !gradient.arguments.dx) return;
  const long at = row_of(lane, t) * lane.inputs;
  Sum<T>* const dx = gradient.arguments.dx + at;
  input_gradient(lane, gradient, t, packed.input, dx, sums);
  if (index == 0 || !wave.dropped) return;
  const long first = (index - 1) * rows_in(lane) * lane.inputs + at;
  dropout(alone, lane.batch * lane.inputs, first, wave.dropout, dx, dx);
}

template <class T>
void wavefront_backward(const Worker& worker, const Wavefront<T>& wave, T* panels) {
  const long top = wave.count - 1, steps = wave.lanes[0].steps;
  T* const panel = panel_of(worker, panels);
  for (long index = worker.id; index <= top; index += worker.count) {
    const Lane<T>& lane = wave.lanes[index];
    pack_backward(lane, wave.gradients[index], packed_of(wave, index));
    clear_rest(alone, dgates_of(lane, wave.gradients[index]));
    if (index == top || !wave.dropped) continue;  // what the layer above had read
    const long size = steps * lane.batch * lane.hidden;
    dropout(alone, size, index * size, wave.dropout, lane.results.y, wave.dropped + index * size);
  }
  for (long tick = 0; tick <= steps + top; ++tick) {
    for (long index = worker.id; index <= top; index += worker.count) {
      const long t = steps - 1 - (tick - (top - index));
      if (t >= -1 && t < steps) whole_step_back(wave, index, t, sums_of(panel));
    }
    worker.sync();
  }
  if constexpr (deep<T> > 1) {
    for (long index = 0; index <= top; ++index) {
      pair_dgates(worker, wave.lanes[index], wave.gradients[index]);
    }
    worker.sync();
  }
  for (long index = 0; index <= top; ++index) {
    weight_gradients(worker, wave.lanes[index], wave.gradients[index], panel);
  }
}

}  // namespace fused_lstm::FL_ISA
