// Weights of int8 as an operator packs them once, for product/int8.h.
#pragma once

#include "isa/kernels.h"

namespace fused_lstm {

// A matrix [gates * units, depth] of one scale a row. Its columns lie in blocks of 16 units of every
// gate, their k by fours: [blocks][depth / 4][gates][16 units][4]. What does not exist is 0.
struct Int8Matrix {
  const int8_t* panels;
  const int32_t* sums;   // [blocks][gates][16] of a row's weights, times the left factor's zero point
  const float* scales;   // the same
  uint8_t* left;         // scratch: for each worker the left factor's rows,
  long left_size;        // this many bytes
};

// A lane's weights: shapes as in Lane.
struct Int8Weights {
  Int8Matrix w_ih, w_hh, w_hr;
};

namespace int8 {

constexpr long lanes = 16;        // of a block
constexpr long zero_point = 128;  // of the left factor's bytes

inline long blocks_of(long units) { return (units + lanes - 1) / lanes; }

inline long panel_bytes(const WeightShape& shape) {  // of a block
  return (shape.depth + 3) / 4 * shape.gates * lanes * 4;
}

// Of a packed matrix: panels, sums, scales.
inline long packed_bytes(const WeightShape& shape) {
  return blocks_of(shape.units) * (panel_bytes(shape) + shape.gates * lanes * 8);
}

// Of so many rows of the left factor, and each one's scale behind them.
inline long left_stride(long depth) { return (depth + 63) / 64 * 64; }
inline long left_bytes(long rows, long depth) { return (rows * (left_stride(depth) + 4) + 63) / 64 * 64; }

// What is packed there, without scratch.
inline Int8Matrix matrix_of(const int8_t* packed, const WeightShape& shape) {
  const long blocks = blocks_of(shape.units);
  const auto* const sums = reinterpret_cast<const int32_t*>(packed + blocks * panel_bytes(shape));
  const long count = blocks * shape.gates * lanes;
  return {packed, sums, reinterpret_cast<const float*>(sums + count), nullptr, 0};
}

}  // namespace int8

// A forward pass of one lane; what its own weights are is not used.
using Int8Sweep = void (*)(const Worker&, const Lane<float>&, const Int8Weights&);

// For an instruction set, by its name, on this CPU: the best that it has.
Int8Sweep int8_sweep(const char* isa);

}  // namespace fused_lstm
