// Chooses the instruction set, once, when the library is loaded.
#include "isa/isa.h"

#include <c10/util/Exception.h>

#include <atomic>
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

const Isa* from_environment() {
  const char* const name = std::getenv("FUSED_LSTM_ISA");
  return &isa_of(name ? name : "");
}

// Any thread may choose while others run.
std::atomic<const Isa*>& chosen() {
  static std::atomic<const Isa*> one{from_environment()};
  return one;
}

}  // namespace

const Isa& isa_of(const std::string& name) {
  std::string offer;
  for (const Isa& isa : all()) {
    if (!isa.supported) continue;
    if (name.empty() || name == isa.for_float->name) return isa;
    offer += std::string(offer.empty() ? "" : ", ") + isa.for_float->name;
  }
  TORCH_CHECK_VALUE(false, "FUSED_LSTM_ISA: got '", name, "', should be one of ", offer,
                    " on this CPU, or unset");
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa& isa : all()) {
    if (isa.supported) names.emplace_back(isa.for_float->name);
  }
  return names;
}

const Isa& current_isa() { return *chosen().load(std::memory_order_relaxed); }

std::string isa_name() { return current_isa().for_float->name; }

void use_isa(const std::string& name) { chosen().store(&isa_of(name), std::memory_order_relaxed); }

}  // namespace fused_lstm
