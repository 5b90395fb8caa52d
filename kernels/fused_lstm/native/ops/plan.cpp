// The operator `plan`: what the operators `lstm` and `lstm_backward` would do, in words.
#include "plan.h"

#include "isa/isa.h"
#include "ops/check.h"
#include "ops/ops.h"

namespace fused_lstm {

std::string plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int64_t layers,
                 const std::string& fuse, bool save, int64_t directions, int64_t projected,
                 bool even, bool dropout, Dtype dtype, std::optional<int64_t> threads,
                 const std::string& isa, const Told& precision) {
  check_fuse(fuse);
  const Isa& set = isa.empty() ? current_isa() : isa_of(isa);
  CHECK_VALUE(dtype == Dtype::Float || dtype == Dtype::Double || dtype == Dtype::BFloat16,
              "dtype: got ", dtype, ", should be float32, float64 or bfloat16");
  const long workers = threads.value_or(team_size());
  CHECK_VALUE(workers > 0, "threads: got ", workers, ", should be 1 or more");
  CHECK_VALUE(layers > 0, "layers: got ", layers, ", should be 1 or more");
  Sizes s{};
  s.steps = steps;
  s.batch = batch;
  s.rows = steps * batch;
  s.inputs = inputs;
  s.hidden = hidden;
  s.outputs = projected > 0 ? projected : hidden;
  s.layers = layers;
  s.directions = directions;
  s.projected = projected > 0;
  s.even = even;
  s.dropout = dropout;
  s.narrow = dtype == Dtype::BFloat16;
  const int terms = terms_of(dtype, precision);
  const auto machine = [&](bool as_they_lie) {
    const bool wide = s.narrow && (as_they_lie || !set.for_bf16);
    return with_factors(wide ? Dtype::Float : dtype, as_they_lie ? 0 : terms, set,
                        [&](const auto& kernels) { return machine_of(kernels, workers); });
  };
  return to_string(s, machine(is_short(s)), machine(false), save, fuse == "layers");
}

}  // namespace fused_lstm
