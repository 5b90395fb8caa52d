// Dropout of whole tensors, for the operators.
#pragma once

#include "ops/check.h"
#include "isa/isa.h"
#include "ops/ops.h"

namespace fused_lstm {

// seed: int64, of which the first element is taken.
inline Dropout dropout_of(double probability, const OptionalTensor& seed) {
  Dropout drop{static_cast<float>(probability), 0, 0};
  if (probability < 1) drop.kept = static_cast<float>(1 / (1 - probability));
  if (seed) drop.seed = static_cast<unsigned long long>(*data_of<int64_t>(*seed));
  return drop;
}

// out = in, of `count` elements, times the mask from its element `first` on.
template <class Kernel, class T>
void drop(const Kernel& kernel, const Dropout& dropout, long count, long first, const T* in,
          T* out) {
  run_on_team([&](const Worker& worker) { kernel(worker, count, first, dropout, in, out); });
}

}  // namespace fused_lstm
