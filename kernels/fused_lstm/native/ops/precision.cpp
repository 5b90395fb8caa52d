#include "ops/precision.h"

#include "refuse.h"

namespace fused_lstm {

int terms_of(Dtype given, const PrecisionOverride& told) {
  if (given != Dtype::Float || !told) return 0;
  if (*told == "tf32") return 2;
  if (*told == "bf16") return 1;
  CHECK_VALUE(*told == "ieee" || *told == "none", "precision: got '", *told,
              "'; expected 'ieee', 'tf32', 'bf16' or 'none'");
  return 0;
}

}  // namespace fused_lstm
