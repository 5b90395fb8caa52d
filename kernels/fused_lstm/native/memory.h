// Memory of large results and scratch.
#pragma once

#include <ATen/ATen.h>

namespace fused_lstm {

// at::empty, but what is freed is kept for the next call of the same size, on huge pages where the
// system gives them, as the CUDA allocator does. A training step takes tens of megabytes of fresh
// memory, and to have the system map and clear it again each time is a tenth of the step.
at::Tensor fresh(at::IntArrayRef shape, const at::TensorOptions& options);

inline at::Tensor fresh_like(const at::Tensor& tensor) {
  return fresh(tensor.sizes(), tensor.options());
}

void release_memory();  // gives back all that is kept: at most 512 MiB

}  // namespace fused_lstm
