// The operator `plan`: what the operators `lstm` and `lstm_backward` would do, in words.
#include "plan.h"

#include "isa/isa.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/precision.h"

namespace fused_lstm {

std::string plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int64_t layers,
                 const std::string& fuse, bool save, int64_t directions, int64_t projected,
                 bool even, bool dropout, at::ScalarType dtype, std::optional<int64_t> threads,
                 const std::string& isa) {
  check_fuse(fuse);
  const Isa& set = isa.empty() ? current_isa() : isa_of(isa);
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
                    "dtype: got ", dtype, ", should be float32, float64 or bfloat16");
  const long workers = threads.value_or(team_size());
  TORCH_CHECK_VALUE(workers > 0, "threads: got ", workers, ", should be 1 or more");
  TORCH_CHECK_VALUE(layers > 0, "layers: got ", layers, ", should be 1 or more");
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
  s.narrow = dtype == at::kBFloat16;
  const int terms = terms_of(dtype, {}, at::Float32Op::RNN);
  const auto machine = [&](bool as_they_lie) {
    const bool wide = s.narrow && (as_they_lie || !set.for_bf16);
    return with_factors(wide ? at::kFloat : dtype, as_they_lie ? 0 : terms, set,
                        [&](const auto& kernels) { return machine_of(kernels, workers); });
  };
  return to_string(s, machine(is_short(s)), machine(false), save, fuse == "layers");
}

}  // namespace fused_lstm
