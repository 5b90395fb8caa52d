// Memory of large results and scratch.
#pragma once

#include <ATen/ATen.h>

namespace fused_lstm {

// at::empty, on huge pages where the system gives them. A training step takes tens of megabytes
// of fresh memory, and the kernel would clear it 4 KiB at a time: a tenth of the step.
at::Tensor fresh(at::IntArrayRef shape, const at::TensorOptions& options);

inline at::Tensor fresh_like(const at::Tensor& tensor) {
  return fresh(tensor.sizes(), tensor.options());
}

}  // namespace fused_lstm
