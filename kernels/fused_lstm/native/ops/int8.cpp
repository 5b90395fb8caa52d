// The operator `int8_pack`: a matrix of int8 as products read it (see isa/int8.h).
#include "isa/int8.h"

#include <algorithm>

#include "memory.h"
#include "ops/check.h"
#include "ops/ops.h"

namespace fused_lstm {

Tensor int8_pack(const Tensor& weight, const Tensor& scale, int64_t gates) {
  CHECK_VALUE(weight.dim() == 2 && gates > 0 && weight.size(0) % gates == 0,
              "weight: got shape ", shown(weight), ", should be [", gates, " * units, depth]");
  check(weight, "weight", weight.sizes(), Dtype::Char);
  check(scale, "scale", {weight.size(0)}, Dtype::Float);
  const WeightShape shape{gates, weight.size(0) / gates, weight.size(1)};
  const Tensor rows = weight.contiguous(), scales = scale.contiguous();
  Tensor out = zeros({int8::packed_bytes(shape)}, Dtype::Char);
  const Int8Matrix matrix = int8::matrix_of(data_of<int8_t>(out), shape);
  auto* const panels = const_cast<int8_t*>(matrix.panels);
  auto* const sums = const_cast<int32_t*>(matrix.sums);
  auto* const made_scales = const_cast<float*>(matrix.scales);
  for (long row = 0; row < gates * shape.units; ++row) {
    const long gate = row / shape.units, unit = row % shape.units;
    const long block = unit / int8::lanes, lane = unit % int8::lanes;
    const int8_t* const from = data_of<int8_t>(rows) + row * shape.depth;
    int8_t* const to = panels + block * int8::panel_bytes(shape);
    int32_t sum = 0;
    for (long k = 0; k < shape.depth; ++k) {
      to[((k / 4 * gates + gate) * int8::lanes + lane) * 4 + k % 4] = from[k];
      sum += from[k];
    }
    const long at = (block * gates + gate) * int8::lanes + lane;
    sums[at] = sum * static_cast<int32_t>(int8::zero_point);
    made_scales[at] = data_of<float>(scales)[row];
  }
  return out;
}

}  // namespace fused_lstm
