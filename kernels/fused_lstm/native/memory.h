// Memory of large results and scratch.
#pragma once

#include "tensor.h"

namespace fused_lstm {

// torch.empty, but what is freed is kept for later calls, on huge pages where the system gives them,
// as the CUDA allocator does. A training step takes tens of megabytes of fresh memory, and to have
// the system map and clear it again each time is a tenth of the step.
//
// What that may cost: a tensor lies in a block at most a quarter larger than itself. Blocks, in use
// or kept, are never more than half as much again as calls have needed at once, and of those kept
// there are at most 512 MiB. What has not been used for five seconds is given back by a later call.
Tensor fresh(Dimensions shape, Dtype dtype);

Tensor zeros(Dimensions shape, Dtype dtype);

inline Tensor fresh_like(const Tensor& tensor) { return fresh(tensor.sizes(), tensor.dtype()); }

// A copy on huge pages where the system gives them, of what has 2 MiB and more and is read again and
// again for as long as a program runs; of less, the tensor itself.
Tensor on_large_pages(const Tensor& given);

int64_t release_memory();  // gives back all that is kept: bytes

// Whether memory is kept at all. Where it is not, it is torch's, so that a profile has it.
void keep_memory(bool keep);

// Whether fresh memory is full of NaN, for tests.
void poison_memory(bool poison);

}  // namespace fused_lstm
