// Chooses the instruction set, once, when the library is loaded.
#include "isa.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <vector>

namespace fused_lstm {

namespace base {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace base
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace avx512
#endif

namespace {

struct Isa {
  bool supported;
  const Kernels<float>* for_float;
  const Kernels<double>* for_double;
};

const std::vector<Isa>& all() {  // best first
  static const std::vector<Isa> table = {
#if defined(__x86_64__)
      {__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma"),
       &avx512::float_kernels, &avx512::double_kernels},
      {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2::float_kernels,
       &avx2::double_kernels},
#endif
      {true, &base::float_kernels, &base::double_kernels},
  };
  return table;
}

const Isa* chosen = nullptr;

const Isa& current() {
  if (chosen == nullptr) {
    const char* name = std::getenv("FUSED_LSTM_ISA");
    use_isa(name ? name : "");
  }
  return *chosen;
}

}  // namespace

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa& isa : all()) {
    if (isa.supported) names.emplace_back(isa.for_float->name);
  }
  return names;
}

std::string isa_name() { return current().for_float->name; }

void use_isa(const std::string& name) {
  std::string offer;
  for (const Isa& isa : all()) {
    if (!isa.supported) continue;
    if (name.empty() || name == isa.for_float->name) {
      chosen = &isa;
      return;
    }
    offer += std::string(offer.empty() ? "" : ", ") + isa.for_float->name;
  }
  TORCH_CHECK_VALUE(false, "FUSED_LSTM_ISA: got '", name, "', should be one of ", offer,
                    " on this CPU, or unset");
}

template <>
const Kernels<float>& kernels() {
  return *current().for_float;
}

template <>
const Kernels<double>& kernels() {
  return *current().for_double;
}

}  // namespace fused_lstm
