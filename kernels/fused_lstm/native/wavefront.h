// fuse="layers" where a step is too small to divide: layer l computes step t while the layer above
// computes step t - 1, each layer whole on one worker. Workers meet once for each diagonal of the
// (layer, step) plane, not once for each step of each layer.
//
// A step here makes its input product too: the layer below has only just made the input.
#pragma once

#include "dropout.h"
#include "steps_backward.h"

namespace fused_lstm::FL_ISA {

constexpr Worker alone{};

// For each layer, w_hh packed and then w_ih; forward and backward pack in different orders.
template <class T>
long wavefront_size(long inputs, long hidden) {
  const long forward = inputs * blocks_of<T>(hidden), backward = hidden * blocks_of<T>(inputs);
  return recurrent_size<T>(hidden) + 4 * (forward > backward ? forward : backward) * W<T>;
}

template <class T>
struct Packed {
  T *recurrent, *input;
};

template <class T>
FL_INLINE Packed<T> packed_of(const Wavefront<T>& wave, long index) {
  T* const recurrent = wave.packed + index * wave.packed_size;
  return {recurrent, recurrent + recurrent_size<T>(wave.layers[index].hidden)};
}

// --- forward ---

template <class T>
void pack_layer(const Layer<T>& layer, const Packed<T>& packed) {
  const long inputs = layer.inputs, hidden = layer.hidden;
  for (long block = 0; block < blocks_of<T>(hidden); ++block) {
    pack_gates(layer.w_ih, hidden, inputs, block * W<T>, 0, inputs,
               packed.input + block * inputs * 4 * W<T>);
  }
  pack_recurrent(alone, layer, packed.recurrent);
}

template <class T, int R>
FL_INLINE void whole_tile(const Layer<T>& layer, const Step<T>& step, const T* x,
                          const Packed<T>& packed, long block, long row) {
  const long inputs = layer.inputs, hidden = layer.hidden, unit = block * W<T>;
  Tile<T, R, 4> tile;
  FL_UNROLL for (int gate = 0; gate < 4; ++gate) {
    const Vec<T> bias = bias_of(layer, gate, unit, min(hidden - unit, W<T>));
    FL_UNROLL for (int r = 0; r < R; ++r) tile.sum[r][gate] = bias;
  }
  multiply_rows(tile, x + row * inputs, inputs, inputs, packed.input + block * inputs * 4 * W<T>);
  recur(layer, step, packed.recurrent + block * hidden * 4 * W<T>, unit, row, tile);
}

template <class T>
void whole_step(const Layer<T>& layer, long t, const Packed<T>& packed) {
  const long batch = layer.batch;
  const Step<T> step = step_of(layer, t, 0);
  const T* x = layer.x + t * batch * layer.inputs;
  for_shares(alone, batch, blocks_of<T>(layer.hidden), 1, gates_tile.rows, false,
             [&](const Share& share) {
    for_heights<gates_tile.rows>(share, {0, batch}, [&](auto height, long row) {
      whole_tile<T, decltype(height)::value>(layer, step, x, packed, share.first, row);
    });
  });
}

template <class T>
void wavefront_forward(const Worker& worker, const Wavefront<T>& wave) {
  const long top = wave.count - 1, steps = wave.layers[0].steps;
  for (long index = worker.id; index <= top; index += worker.count) {
    pack_layer(wave.layers[index], packed_of(wave, index));
  }
  for (long tick = 0; tick < steps + top; ++tick) {
    for (long index = worker.id; index <= top; index += worker.count) {
      const Layer<T>& layer = wave.layers[index];
      const long t = tick - index, size = layer.batch * layer.hidden;
      if (t < 0 || t >= steps) continue;
      whole_step(layer, t, packed_of(wave, index));
      if (index == top || !wave.dropped) continue;
      const long first = (index * steps + t) * size;
      dropout(alone, size, first, wave.dropout, layer.y + t * size, wave.dropped + first);
    }
    worker.sync();
  }
}

// --- backward ---

// dx = dgates w_ih, of one step.
template <class T>
void input_gradient(const Layer<T>& layer, const Blocks<T>& dgates, long t, const T* packed,
                    T* dx, T* sums) {
  const long batch = layer.batch, inputs = layer.inputs;
  for_step_back_tiles(alone, dgates, t * batch, batch, blocks_of<T>(inputs), packed, false, sums,
                      [&](auto& tile, long first, long row) {
    const long column = first * W<T>;
    store(tile, dx + row * inputs + column, inputs, inputs - column);
  });
}

// t = -1 is the step before the first, where there is only dh0.
template <class T>
void whole_step_back(const Wavefront<T>& wave, long index, long t, T* sums) {
  const Layer<T>& layer = wave.layers[index];
  const LayerGradient<T>& gradient = wave.gradients[index];
  const Blocks<T> dgates = dgates_of(layer, gradient);
  const Packed<T> packed = packed_of(wave, index);
  one_step_back(alone, layer, gradient, t, dgates, packed.recurrent, sums);
  if (t < 0 || !gradient.dx) return;
  const long size = layer.batch * layer.inputs;
  T* const dx = gradient.dx + t * size;
  input_gradient(layer, dgates, t, packed.input, dx, sums);
  if (index == 0 || !wave.dropped) return;
  dropout(alone, size, ((index - 1) * layer.steps + t) * size, wave.dropout, dx, dx);
}

template <class T>
void wavefront_backward(const Worker& worker, const Wavefront<T>& wave, T* panels) {
  const long top = wave.count - 1, steps = wave.layers[0].steps;
  T* const panel = panel_of(worker, panels);
  for (long index = worker.id; index <= top; index += worker.count) {
    const Layer<T>& layer = wave.layers[index];
    const Packed<T> packed = packed_of(wave, index);
    pack_weight_columns(alone, layer.w_hh, layer.hidden, layer.hidden, packed.recurrent);
    pack_weight_columns(alone, layer.w_ih, layer.hidden, layer.inputs, packed.input);
    if (index == top || !wave.dropped) continue;  // what the layer above had read
    const long size = steps * layer.batch * layer.hidden;
    dropout(alone, size, index * size, wave.dropout, layer.y, wave.dropped + index * size);
  }
  for (long tick = 0; tick <= steps + top; ++tick) {
    for (long index = worker.id; index <= top; index += worker.count) {
      const long t = steps - 1 - (tick - (top - index));
      if (t >= -1 && t < steps) whole_step_back(wave, index, t, panel);
    }
    worker.sync();
  }
  for (long index = 0; index <= top; ++index) {
    const Layer<T>& layer = wave.layers[index];
    weight_gradients(worker, layer, wave.gradients[index],
                     dgates_of(layer, wave.gradients[index]), panel);
  }
}

}  // namespace fused_lstm::FL_ISA
