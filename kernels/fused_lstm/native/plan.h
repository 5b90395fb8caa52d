// Plans a call: the order of its work, and its memory. Decided before anything runs, from
// sizes, threads and an instruction set alone.
#pragma once

#include <algorithm>

#include "isa/kernels.h"

namespace fused_lstm {

struct Sizes {
  long steps, batch, rows;   // T, B and N: rows of all steps
  long inputs, hidden, outputs;  // I, H and P: H or, where h is projected, less
  long layers, directions;
  long heads = 1;            // of a call whose x's part of the gates is given; H and P are a head's
  bool given;                // x is that part, of one layer in one direction
  CellShape cell;
  InnerSizes inner;
  bool bias, projected;      // of every lane
  bool even;                 // every row is alive at every step, and none is kept back
  bool resets = false;       // states of some rows are 0 before some steps
  bool dropout;              // between layers
  bool norm;                 // lanes normalize their products
  bool narrow;               // tensors are bfloat16
  bool unit;                 // which a matrix unit multiplies
  bool prepared;             // weights were packed before the call: see isa/prepared.h
  long weight_bytes;         // of an element of the weights, as a short call reads them
  long samples;              // that the weights' gradients are of, or 0: of all rows together

  long abreast() const { return directions * heads; }  // lanes of a layer
  long lanes() const { return layers * abreast(); }
  long width() const { return abreast() * outputs; }  // columns of y
  long given_columns() const { return heads * (cell.x_gates() + cell.inputs) * hidden; }

  // Units of a state; and how far columns that a step saves lie apart.
  long state_units() const { return cell.inner ? inner.states : hidden; }
  long column_units() const { return cell.inner ? inner.widest : hidden; }
  long state_columns() const { return cell.states * state_units(); }
  long input_columns() const { return cell.inner ? inner.inputs : cell.inputs * hidden; }
  long input_at(long k) const { return cell.inner ? inner.input_at[k] : k * hidden; }
  long saved_columns() const { return cell.saved * column_units(); }

  WeightShape recurrent() const { return {cell.h_gates(), hidden, outputs}; }
  WeightShape input() const {  // of the layer that has the widest
    const long widest = layers > 1 ? std::max(inputs, width()) : inputs;
    return {cell.x_gates(), hidden, widest};
  }
  // Matrices of c's size that a lane keeps: c and, where it normalizes, W x and R h, or numbers of rows.
  // None of an RNN.
  long planes() const {
    const long numbers = cell.inner ? cell.inner->numbers : 0, width = state_columns();
    return norm ? 1 + (cell.products() + cell.states - 1) / cell.states
                : (cell.saved > 0) + (numbers + width - 1) / std::max(width, 1L);
  }
};

// A team of threads with an instruction set, as far as the plan has to know it.
struct Machine {
  const char* isa;
  long threads, bytes, sum_bytes;  // bytes of an element, and of a sum
  Shapes shapes;
  long (*recurrent_size)(const WeightShape& recurrent, long inputs, bool projected);
  long (*wavefront_size)(const WeightShape& input);
  long (*blocks_size)(long groups, long units, long rows);
  long (*ready_size)(long rows, long depth);
  long (*meeting)(long workers) = nullptr;  // how many nanoseconds one takes, or 0: not known
};

template <class T>
Machine machine_of(const Kernels<T>& kernels, long threads, long (*meeting)(long) = nullptr) {
  return {kernels.name,
          threads,
          sizeof(T),
          sizeof(Sum<T>),
          kernels.shapes,
          kernels.recurrent_size,
          kernels.wavefront_size,
          kernels.blocks_size,
          kernels.ready_size,
          meeting};
}

// `count` matrices of elements, or of sums.
struct Buffer {
  long count = 0, rows = 0, columns = 0;
  bool sums = false;
};

// inference: a forward pass that saves nothing for a backward pass.
enum class Pass { inference, forward, backward };

struct Plan {
  bool is_short;   // weights are read as they lie, in all layers in one go
  bool alone;      // where is_short: on one worker
  bool by_team;    // where is_short: on torch's team, else on threads of our own
  long nanoseconds;  // where is_short: about what it takes one worker
  bool wavefront;  // each layer on a worker of its own, a step behind the layer below; or in turns
  long abreast;    // lanes of a layer that run at once, each on one worker or half of the team
  long team;       // workers
  bool input_in_step, input_in_step_above;  // steps of the first layer, of others, make W x too
  long chunk;      // steps whose input product is made at once
  bool in_place;   // x's part of the gates lies in what is saved
  // Forwards, saved or scratch: outputs below the last layer, cell states, gates activated, and of
  // `chunk` steps the gates' part that is the input's, or none, where `gates` has it first.
  // by_h: h w_hh' of a step, where it is normalized; what is saved of it lies behind c.
  Buffer h, c, gates, input_part, product, by_h, unprojected;
  // For a matrix unit: x's rows of `chunk` steps, or h's rows of a step for each worker.
  Buffer ready;
  // Backwards: gradients by the gates, by a projected h, and by x of the layers above the first;
  // sums of the weights' gradients, where they are made in parts and bfloat16.
  Buffer dgates, dh, between, partial;
  Buffer by_inner, arrived;  // of products inside a step: see GradientScratch
  Buffer totals, numbers, by_sums;  // of sums inside a step: see LaneScratch and LaneResults
  Buffer sampled;            // a sample's part of them, for each worker
  Buffer dropped;            // x of the layers above the first, where there is dropout
  Buffer recurrent, packed;  // weights packed: of the lanes abreast, or of all layers
  Buffer panels;             // one for each worker

  bool each_alone() const { return abreast == team; }  // whether each lane is one worker's
};

// Whether a forward pass has so few rows that weights are best read as they lie. It is computed in
// float32 then, whatever else there is for bfloat16, whose weights are widened in registers.
bool is_short(const Sizes& sizes);

// Bfloat16 terms of float32 factors, given those that are asked for, of a pass with so many rows a step:
// as many, or 0 where two would take longer than float32.
int terms_worth(int terms, Pass pass, long batch);

// together: lanes may run at once (fuse="layers"), where that is faster.
Plan plan_of(const Sizes& sizes, const Machine& machine, Pass pass, bool together);

}  // namespace fused_lstm
