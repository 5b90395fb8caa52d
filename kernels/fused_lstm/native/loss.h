// Softmax, cross entropy and their gradients for a chunk of rows: the decoder's product, the loss
// and all three gradients while the chunk's logits are in cache.
//
// Logits are made transposed, in blocks (see blocks.h) whose rows are classes and whose columns,
// the lanes, are rows of `hidden`: so a lane's maximum and sum need no shuffle, and the largest
// factor, the weight, is read as it lies. With e = exp(logit - max) and s = sum(e), the gradient
// by a logit is g * (e / s - [it is the target]); g / s goes into the small factors (`scale`) and
// the target's part is added at the end, so that e is written once and used as it is.
//
// Where T is bfloat16, logits, losses and gradients are float32; e and `scaled` are rounded to it.
#pragma once

#include "isa/kernels.h"
#include "product/large.h"
#include "product/pair.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_INLINE Blocks<Sum<T>> logits_of(const Loss<T>& loss) {
  return {loss.logits, 1, loss.rows, loss.classes};
}

template <class T>
FL_INLINE Blocks<T> exponentials_of(const Loss<T>& loss) {
  return {loss.exponentials, 1, loss.rows, loss.classes};
}

template <class T>
FL_INLINE Sum<T>* own_lanes(const Loss<T>& loss, Sum<T>* lanes, long worker) {
  return lanes + worker * blocks_of<T>(loss.rows) * W<T>;
}

template <class T>
FL_INLINE Vec<T> larger_of(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

// The maximum, or the sum, of what the workers found for a block of rows.
template <class T>
FL_INLINE Vec<T> max_of(const Worker& worker, const Loss<T>& loss, long block) {
  Vec<T> most = load(loss.maxima + block * W<T>);
  for (long id = 1; id < worker.count; ++id) {
    most = larger_of<T>(most, load(own_lanes(loss, loss.maxima, id) + block * W<T>));
  }
  return most;
}

template <class T>
FL_INLINE Vec<T> sum_of(const Worker& worker, const Loss<T>& loss, long block) {
  Vec<T> total = load(loss.sums + block * W<T>);
  for (long id = 1; id < worker.count; ++id) {
    total += load(own_lanes(loss, loss.sums, id) + block * W<T>);
  }
  return total;
}

// --- logits' = weight hidden' + bias, and this worker's maximum in each lane ---

template <class T>
FL_INLINE void logits_tile(const Loss<T>& loss, const Sums<T>& tile, Sum<T>* maxima,
                           const T* panel, long block, long row, long first, long count) {
  const Blocks<Sum<T>> logits = logits_of(loss);
  Place<T> from, to = {logits.at(block, row), W<T>, logits.distance(logits.rows)};
  if constexpr (by_unit<T>) to = place_of(tile);  // whose blocks are not equally far apart
  if (first > 0 && by_unit<T>) {
    for (long r = 0; r < tile.rows; ++r) {
      for (long n = 0; n < tile.vectors; ++n) tile[r][n] = load(logits.at(block + n, row + r));
    }
  }
  if (first > 0) {
    from = to;
  } else if (loss.bias) {  // every vector's sums begin with the first of its row
    for (long r = 0; r < tile.rows; ++r) tile.data[r] = broadcast(loss.bias[row + r]);
    from = {place_of(tile).data, W<T>, 0};
  }
  multiply_rows(tile, from, to, loss.weight + row * loss.inputs + first, loss.inputs, count, panel);
  const bool last = first + count == loss.inputs;
  for (long n = 0; n < tile.vectors; ++n) {
    Sum<T>* const lanes = maxima + (block + n) * W<T>;
    Vec<T> most = load(lanes);
    for (long r = 0; r < tile.rows; ++r) {
      const Vec<T> logit = load(to.data + n * to.vector + r * to.row);
      if (by_unit<T>) store(logits.at(block + n, row + r), logit);
      most = larger_of<T>(most, logit);
    }
    if (last) store(lanes, most);
  }
}

template <class T>
void make_logits(const Worker& worker, const Loss<T>& loss, T* panel) {
  const long inputs = loss.inputs, blocks = blocks_of<T>(loss.rows);
  Sum<T>* maxima = own_lanes(loss, loss.maxima, worker.id);
  for (long i = 0; i < blocks * W<T>; ++i) maxima[i] = -__builtin_huge_val();
  UnitScope scope;
  TileMemory<T> memory;
  for_parts<T>(worker, loss.classes, blocks_of<T>(inputs), blocks,
               [&](Range classes, Range depth, const Share& share) {
    const long first = depth.begin * W<T>, count = min(inputs, depth.end * W<T>) - first;
    for (long n = 0; n < share.vectors; ++n) {
      const long row = (share.first + n) * W<T>;
      pack_transposed(loss.hidden + row * inputs + first, inputs, loss.rows - row, count,
                      panel + n * W<T> * deep<T>, share.vectors * W<T>);
    }
    for_heights(plain_tile.rows, share, classes, [&](long height, long row) {
      scope.configure(height);
      logits_tile(loss, memory.of(height, share.vectors), maxima, panel, share.first, row, first,
                  count);
    });
  });
}

// --- the softmax: logits become e, sums their sums; the targets' logits are picked first ---

template <class T>
void exponentiate(const Worker& worker, const Loss<T>& loss) {
  const Blocks<Sum<T>> logits = logits_of(loss);
  const Blocks<T> exponentials = exponentials_of(loss);
  const Range classes = part(loss.classes, worker.id, worker.count);
  for (long n = 0; n < loss.rows; ++n) {
    const long target = loss.target[n];
    if (target >= classes.begin && target < classes.end) {
      loss.picked[n] = logits.at(n / W<T>, target)[n % W<T>];
    }
  }
  Sum<T>* sums = own_lanes(loss, loss.sums, worker.id);
  const Vec<T> least = broadcast(-Types<T>::largest), nothing = {};
  for (long block = 0; block < blocks_of<T>(loss.rows); ++block) {
    const Vec<T> most = max_of(worker, loss, block);
    const long width = logits.width(block);
    Vec<T> total = nothing;
    for (long row = classes.begin; row < classes.end; ++row) {
      const Vec<T> below = load(logits.at(block, row)) - most;
      const Vec<T> e = below < least ? nothing : exp<Sum<T>>(below);
      total += e;
      if (loss.row_grad) store_left(exponentials.at(block, row), e, width);
    }
    store(sums + block * W<T>, total);
  }
  if (loss.row_grad) clear_rest(worker, exponentials);
}

// The loss of each row, and `scale` and `scaled`, the small factors, for the gradients.
template <class T>
void finish_losses(const Worker& worker, const Loss<T>& loss) {
  const long inputs = loss.inputs;
  const Range mine = part(blocks_of<T>(loss.rows), worker.id, worker.count);
  for (long block = mine.begin; block < mine.end; ++block) {
    const Vec<T> most = max_of(worker, loss, block), total = sum_of(worker, loss, block);
    for (long lane = 0; lane < W<T>; ++lane) {
      const long n = block * W<T> + lane;
      const bool counts = n < loss.rows && loss.target[n] >= 0;
      if (n < loss.rows) {
        const Sum<T> log_sum = static_cast<Sum<T>>(__builtin_log(double(total[lane])));
        loss.loss[n] = counts ? log_sum + (most[lane] - loss.picked[n]) : Sum<T>(0);
      }
      if (!loss.row_grad) continue;
      loss.scale[n] = counts ? loss.row_grad[n] / total[lane] : Sum<T>(0);
      if (n >= loss.rows) continue;
      for (long k = 0; k < inputs; k += W<T>) {
        const Vec<T> hidden = load(loss.hidden + n * inputs + k, inputs - k);
        store(loss.scaled + n * inputs + k, counts ? hidden * loss.scale[n] : Vec<T>{},
              inputs - k);
      }
    }
  }
}

// --- gradients ---

template <class T>
void bias_from_exponentials(const Worker& worker, const Loss<T>& loss) {
  const Blocks<T> exponentials = exponentials_of(loss);
  const Range classes = part(loss.classes, worker.id, worker.count);
  for (long row = classes.begin; row < classes.end; ++row) {
    Vec<T> total = {};
    for (long block = 0; block < blocks_of<T>(loss.rows); ++block) {
      total += load(exponentials.at(block, row)) * load(loss.scale + block * W<T>);
    }
    loss.dbias[row] = sum<Sum<T>>(total) + (loss.add ? loss.dbias[row] : Sum<T>(0));
  }
}

// Adds what a row's target does. Each worker has rows of dhidden, and columns of dweight.
template <class T>
void subtract_targets(const Worker& worker, const Loss<T>& loss) {
  const long inputs = loss.inputs;
  const Range rows = part(loss.rows, worker.id, worker.count);
  for (long n = rows.begin; n < rows.end; ++n) {
    const long target = loss.target[n];
    const T* weight = loss.weight + (target < 0 ? 0 : target) * inputs;
    Sum<T>* dhidden = loss.dhidden + n * inputs;
    const Sum<T> scale = loss.scale[n], grad = loss.row_grad[n];
    for (long k = 0; k < inputs; k += W<T>) {
      const long width = inputs - k;
      const Vec<T> sum = load(dhidden + k, width) * scale - grad * load(weight + k, width);
      store(dhidden + k, target < 0 ? Vec<T>{} : sum, width);
    }
  }
  const Range columns = part(inputs, worker.id, worker.count);
  for (long n = 0; n < loss.rows; ++n) {
    const long target = loss.target[n];
    if (target < 0) continue;
    const T* hidden = loss.hidden + n * inputs;
    Sum<T>* dweight = loss.dweight + target * inputs;
    const Sum<T> grad = loss.row_grad[n];
    for (long k = columns.begin; k < columns.end; k += W<T>) {
      const long width = columns.end - k;
      store(dweight + k, load(dweight + k, width) - grad * load(hidden + k, width), width);
    }
    if (worker.id == 0 && loss.dbias) loss.dbias[target] -= grad;
  }
}

template <class T>
void cross_entropy(const Worker& worker, const Loss<T>& loss, T* panels) {
  const Blocks<T> exponentials = exponentials_of(loss);
  T* panel = panel_of(worker, panels);
  make_logits(worker, loss, panel);
  worker.sync();
  exponentiate(worker, loss);
  worker.sync();
  finish_losses(worker, loss);
  worker.sync();
  if (!loss.row_grad) return;
  product(worker, exponentials, loss.scaled, loss.inputs, loss.add, loss.dweight, panel);
  if (loss.dbias) bias_from_exponentials(worker, loss);
  if constexpr (deep<T> > 1) {
    worker.sync();
    pair_rows(worker, exponentials);
    worker.sync();
  }
  transposed_product(
      worker, exponentials, loss.inputs, loss.dhidden, loss.dhidden, panel,
      [&](Range rows, long column, const Panel<T>& right) {
        pack_rows(loss.weight, loss.inputs, rows, column, loss.inputs - column, right);
      });
  worker.sync();
  subtract_targets(worker, loss);
}

}  // namespace fused_lstm::FL_ISA
