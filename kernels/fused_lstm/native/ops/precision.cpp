#include "ops/precision.h"

#include <string>

namespace fused_lstm {

int terms_of(at::ScalarType given, const Told& told, at::Float32Op op) {
  if (given != at::kFloat) return 0;
  const auto& context = at::globalContext();
  const std::string word =
      told ? std::string(*told)
           : at::precision2str(context.float32Precision(at::Float32Backend::MKLDNN, op));
  if (word == "tf32") return 2;
  if (word == "bf16") return 1;
  TORCH_CHECK_VALUE(!told || word == "ieee" || word == "none", "precision: got '", word,
                    "', should be 'ieee', 'tf32', 'bf16' or 'none'");
  return 0;
}

}  // namespace fused_lstm
