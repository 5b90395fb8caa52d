// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "args.h"

namespace fused_lstm {

// The kernels of the instruction set in use: the best this CPU has, unless the environment's
// FUSED_LSTM_ISA, or `use_isa`, says another.
template <class T>
const Kernels<T>& kernels();

std::string isa_name();                     // in use
std::vector<std::string> isa_names();       // what this CPU has, best first
void use_isa(const std::string& name);      // "" is the best; a test's way to the others

}  // namespace fused_lstm
