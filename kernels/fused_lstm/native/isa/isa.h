// Which instruction set runs.
#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <vector>

#include "isa/kernels.h"

namespace fused_lstm {

struct Isa {
  bool supported;
  const Kernels<float>* for_float;
  const Kernels<double>* for_double;
};

// The instruction set in use: the best this CPU has, unless the environment's FUSED_LSTM_ISA, or
// `use_isa`, says another.
const Isa& current_isa();

// The one of that name, or the best where it is ""; ValueError where this CPU does not have it.
const Isa& isa_of(const std::string& name);

// Calls body(kernels) with those for a dtype that compute_dtype gave. An operator takes them once
// and passes them on: another thread may choose another instruction set meanwhile, whose panels
// have other sizes.
template <class Body>
auto with_kernels(c10::ScalarType dtype, const Body& body, const Isa& isa = current_isa()) {
  return dtype == c10::kDouble ? body(*isa.for_double) : body(*isa.for_float);
}

std::string isa_name();                     // in use
std::vector<std::string> isa_names();       // what this CPU has, best first
void use_isa(const std::string& name);      // "" is the best; a test's way to the others

}  // namespace fused_lstm
