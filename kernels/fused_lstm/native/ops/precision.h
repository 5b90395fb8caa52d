// How exact products of float32 tensors are: as an operator is told or, where it is told nothing,
// as PyTorch's switches are when it runs.
#pragma once

#include <ATen/Context.h>

#include <optional>
#include <string_view>

namespace fused_lstm {

using Told = std::optional<std::string_view>;

// Bfloat16 terms that each float32 factor is taken for, where the CPU has a unit for them (see
// product/terms.h), or 0: it is multiplied as it is. `op` is whose switch is asked.
int terms_of(at::ScalarType given, const Told& told, at::Float32Op op);

}  // namespace fused_lstm
