// Which instruction set runs.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isa/kernels.h"
#include "isa/prepared.h"
#include "tensor.h"

namespace fused_lstm {

struct Isa {
  const char* name;
  bool supported;
  const Kernels<float>* for_float;    // may be another set's, of which this one is more
  const Kernels<double>* for_double;
  const Kernels<Bf16>* for_bf16;      // null: bfloat16 is widened to float32
  // float32 as sums of one and of two bfloat16 terms; null: it is multiplied as it is.
  const Kernels<float>* for_terms[2];
  // Prepared weights of bfloat16 and of int8 by a matrix unit, or none.
  PreparedSweep for_bf16_rows, for_int8_rows;
  std::vector<Cell> cells;  // the library's
};

// Whether a matrix unit multiplies bfloat16: rows are made ready for it.
inline bool has_unit(const Isa& isa) { return isa.for_bf16 && isa.for_bf16->ready_size(1, 1) > 0; }

// The instruction set in use: the best this CPU has, unless the environment's FUSED_LSTM_ISA, or
// `use_isa`, says another.
const Isa& current_isa();

// The one of that name, or the best where it is ""; an error where this CPU does not have it.
const Isa& isa_of(const std::string& name);

// One more, which is never the best: bench/kernels has AMX emulated. It stays.
void add_isa(Isa& isa);

// Calls body(kernels) with those for a dtype that compute_dtype gave. An operator takes them once
// and passes them on: another thread may choose another instruction set meanwhile, whose panels
// have other sizes.
template <class Body>
auto with_kernels(Dtype dtype, const Body& body, const Isa& isa = current_isa()) {
  return dtype == Dtype::Double ? body(*isa.for_double) : body(*isa.for_float);
}

// Calls `body` likewise for an operator that has kernels for bfloat16, and for float32 as sums of so
// many terms of it (0: as it is), where the instruction set has them.
template <class Body>
auto with_factors(Dtype dtype, int terms, const Isa& isa, const Body& body) {
  if (dtype == Dtype::BFloat16) return body(*isa.for_bf16);
  const bool split = dtype == Dtype::Float && terms > 0 && isa.for_terms[terms - 1];
  return split ? body(*isa.for_terms[terms - 1]) : with_kernels(dtype, body, isa);
}

// Adds a cell that was compiled for the instruction set in use. Calls name it in their `cell`.
// tables: addresses of the CompiledCell of float and double and, where the set has kernels of it, of Bf16;
// their functions stay loaded.
void add_cell(const std::string& name, const std::vector<int64_t>& tables);

// Returns the cell of a name for an instruction set, or null. It stays where it is.
const Cell* find_cell(const Isa& isa, std::string_view name);

std::string isa_name();                     // in use
void use_isa(const std::string& name);      // "" is the best; a test's way to the others

// The instruction sets that this CPU has, best first; given a dtype, those with kernels for it.
std::vector<std::string> isa_names(std::optional<Dtype> dtype);

}  // namespace fused_lstm
