// How exact products of float32 tensors are, as an operator is told.
#pragma once

#include <optional>
#include <string>

#include "tensor.h"

namespace fused_lstm {

// One of PyTorch's words for it; nothing is "ieee".
using PrecisionOverride = std::optional<std::string>;

// Bfloat16 terms that each float32 factor is taken for, where the CPU has a unit for them (see
// product/terms.h), or 0: it is multiplied as it is.
int terms_of(Dtype given, const PrecisionOverride& told);

}  // namespace fused_lstm
