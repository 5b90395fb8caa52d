// Each product of a training step by itself, through the code that makes it there: for
// bench products, which times it, and for the tests, which compare it with a matrix product. Included
// by isa/body.h, for each instruction set, in place of what the engine has of it.
#pragma once

#include "loss.h"
#include "products.h"
#include "sweep_backward.h"

namespace fused_lstm::FL_ISA {

// A matrix as blocks, and back.
template <class T>
void to_blocks(const T* matrix, const Blocks<T>& blocks) {
  const long columns = blocks.groups * blocks.units;
  for (long block = 0; block < blocks.count(); ++block) {
    const T* source = matrix + blocks.column(block);
    for (long row = 0; row < blocks.rows; ++row) {
      const long width = blocks.width(block);
      store_left(blocks.at(block, row), load(source + row * columns, width), width);
    }
  }
}

template <class T>
void from_blocks(const Blocks<T>& blocks, Sum<T>* matrix) {
  const long columns = blocks.groups * blocks.units;
  for (long block = 0; block < blocks.count(); ++block) {
    Sum<T>* target = matrix + blocks.column(block);
    for (long row = 0; row < blocks.rows; ++row) {
      store(target + row * columns, load(blocks.at(block, row)), blocks.width(block));
    }
  }
}

// Of logits, the scratch for blocks holds sums.
template <class T>
Blocks<Sum<T>> logits_of(const Factors<T>& f) {
  return {sums_of(f.blocks), 1, f.units, f.rows};
}

template <class T>
long step_panels(const Factors<T>& f) {
  return Fma<T>::panels_of(f.columns, f.batch, f.workers);
}

// What belongs to a product but is not timed: factors that a call packs once for all steps, or
// that another product leaves in blocks; and, `after`, a result that lies in blocks.
template <class T>
void prepare_product(const Factors<T>& f, bool after) {
  const Blocks<T> left{f.blocks, f.groups, f.units, f.rows};
  if (after) {
    if (f.product == Product::logits) from_blocks(logits_of(f), f.out);
  } else if (f.product == Product::step) {
    Fma<T>::pack_gates_of(Worker{}, f.right, {4, f.units, f.units}, f.packed);
  } else if (f.product != Product::input && f.product != Product::logits) {
    to_blocks(f.left, left);
    if (f.product == Product::step_back) {
      Fma<T>::pack_columns_of(Worker{}, f.right, left, f.columns, step_panels(f), f.packed);
    }
    if (f.product == Product::columns) pair_rows(Worker{}, left);
  }
}

template <class T>
void steps_alone(const Worker& worker, const Factors<T>& f) {
  const long hidden = f.units, size = f.batch * hidden;
  Lane<T> lane{};
  lane.batch = f.batch;
  lane.outputs = hidden;
  lane.scratch.ready = f.ready;
  for (long t = 0; t < f.rows / f.batch; ++t) {
    Sum<T>* const out = f.out + t * 4 * size;
    const Rows<T> left = Fma<T>::ready(worker, lane, {f.left + t * size, hidden}, hidden, {0, f.batch});
    Fma<T>::gates(
        worker, left, {0, f.batch}, {4, hidden, hidden}, f.packed,
        t % 2, [&](const Sums<T>&, long, long) { return Place<T>{}; },
        [&](const Sums<T>& tile, long unit, long row) {
          store_gates(tile, 4, out + row * 4 * hidden + unit, 4 * hidden, hidden, hidden - unit);
        });
    worker.sync();
  }
}

template <class T>
void steps_back_alone(const Worker& worker, const Factors<T>& f, Sum<T>* sums) {
  const Blocks<T> dgates{f.blocks, f.groups, f.units, f.rows};
  const long columns = f.columns;
  for (long t = 0; t < f.rows / f.batch; ++t) {
    const long line = t * f.batch;
    Fma<T>::columns(worker, dgates, line, {0, f.batch}, columns, step_panels(f), f.packed, t % 2,
                    sums, [&](const Sums<T>& tile, long first, long row) {
      const long column = first * W<T>;
      store(tile, f.out + (line + row) * columns + column, columns, columns - column);
    });
    worker.sync();
  }
}

template <class T>
void logits_alone(const Worker& worker, const Factors<T>& f, T* panel) {
  Loss<T> loss{};
  loss.rows = f.units;
  loss.inputs = f.columns;
  loss.classes = f.rows;
  loss.hidden = f.right;
  loss.weight = f.left;
  loss.maxima = sums_of(f.packed);
  loss.logits = logits_of(f).data;
  make_logits(worker, loss, panel);
}

template <class T>
void one_product(const Worker& worker, const Factors<T>& f) {
  T* const panel = panel_of(worker, f.panels);
  const Blocks<T> blocks{f.blocks, f.groups, f.units, f.rows};
  if (f.product == Product::step) return steps_alone(worker, f);
  if (f.product == Product::step_back) return steps_back_alone(worker, f, sums_of(panel));
  if (f.product == Product::rows) {
    return product(worker, blocks, f.right, f.columns, false, f.out, panel);
  }
  if (f.product == Product::columns) {
    const auto pack = [&](Range n, long column, const Panel<T>& right) {
      pack_rows(f.right, f.columns, n, column, f.columns - column, right);
    };
    return transposed_product(worker, blocks, f.columns, f.out, f.out, panel, pack);
  }
  if (f.product == Product::logits) return logits_alone(worker, f, panel);
  Lane<T> lane{};
  lane.cell.sums = 4;
  lane.inputs = f.columns;
  lane.hidden = f.units;
  lane.arguments.x = f.left;
  lane.weights.w_ih = f.right;
  lane.scratch.input_stride = 4 * f.units;
  lane.scratch.ready = f.ready;
  input_product(worker, lane, {0, f.rows}, f.out, panel);
}

// The same small product `count` times, with both factors in the L1 cache and the sums in
// registers: what no product can pass. Returns its multiply-adds.
template <class T>
long best_product(long count, T* left) {
  constexpr long depth = 64, R = plain_tile.rows, N = plain_tile.vectors;
  T* const right = left + R * depth;
  UnitScope scope;
  TileMemory<T> memory;
  const Sums<T> sums = memory.of(R, N);
  scope.configure(R);
  clear(sums);
  if constexpr (by_unit<T>) {
    for (long i = 0; i < count; ++i) {
      multiply_tiles(sums, left, depth, grain<T>, depth / grain<T>, right);
    }
  } else {
    Tile<T, R, N> tile;
    clear(tile);
    for (long i = 0; i < count; ++i) multiply<1>(tile, left, depth, depth, right);
    leave(tile, place_of(sums));
  }
  store(sums, sums_of(right), N * W<T>, N * W<T>);
  return count * depth * R * N * W<T>;
}

template <class T>
constexpr ProductKernels<T> products = {prepare_product<T>, one_product<T>, best_product<T>};

#if defined(FL_TERMS)
extern const ProductKernels<float> float_products;
constexpr ProductKernels<float> float_products = products<float>;
#elif defined(FL_BF16)
extern const ProductKernels<Bf16> bf16_products;
constexpr ProductKernels<Bf16> bf16_products = products<Bf16>;
#else
extern const ProductKernels<float> float_products;
extern const ProductKernels<double> double_products;
constexpr ProductKernels<float> float_products = products<float>;
constexpr ProductKernels<double> double_products = products<double>;
#endif

}  // namespace fused_lstm::FL_ISA
