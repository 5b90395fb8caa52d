// A product by itself, made by the code of one instruction set (see alone.h).
#pragma once

#include "isa/kernels.h"

namespace fused_lstm {

// The left factor is a matrix [rows, groups * units]. input: [4 * units, columns] is on the right,
// and for logits [units, columns] with the left one [rows, columns].
enum class Product { input, step, step_back, rows, columns, logits };

template <class T>
struct Factors {
  Product product;
  long rows, batch, groups, units, columns, workers;
  const T *left, *right;
  Sum<T>* out;
  T *blocks, *packed, *panels, *ready;  // scratch
};

template <class T>
struct ProductKernels {
  void (*prepare)(const Factors<T>&, bool after);
  void (*run)(const Worker&, const Factors<T>&);
  long (*best)(long count, T* factors);  // of panel_size
};

}  // namespace fused_lstm
