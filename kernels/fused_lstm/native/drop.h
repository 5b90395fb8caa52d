// Dropout of whole tensors, for the operators.
#pragma once

#include "check.h"
#include "isa.h"
#include "ops.h"

namespace fused_lstm {

inline Dropout dropout_of(double probability, const std::optional<at::Tensor>& seed) {
  Dropout drop{static_cast<float>(probability), 0, 0};
  if (probability < 1) drop.scale = static_cast<float>(1 / (1 - probability));
  if (seed) drop.seed = static_cast<unsigned long long>(seed->item<int64_t>());
  return drop;
}

// out = in times the mask from its element `first` on.
template <class T>
void drop(const Kernels<T>& kernels, const Dropout& dropout, long first, const at::Tensor& in,
          const at::Tensor& out) {
  run_on_team([&](const Worker& worker) {
    kernels.dropout(worker, in.numel(), first, dropout, in.data_ptr<T>(), out.data_ptr<T>());
  });
}

}  // namespace fused_lstm
