// The recurrence of a layer's heads, in one direction, whose input product has been made: the
// operators `recurrence` and `recurrence_backward`. Schemas: kernels/fused_lstm/schemas.txt.
//
// Heads are lanes of one layer. In the operators' rows they lie side by side, here one after another.
#include <utility>

#include "ops/heads.h"

namespace fused_lstm {
namespace {

// The dtype of gates that a forward saves. A cell of several states is computed in float32, and its
// backward may compare what it saved: rounded, it would decide otherwise than the step.
Dtype kept_dtype(const Call& call) {
  return call.sizes.cell.states > 1 ? call.dtype : call.given;
}

// A gradient [batch, count*H], as sums and heads first; undefined where there is none.
Tensor gradient_of(const Call& call, const OptionalTensor& tensor, const char* name, long count) {
  if (!tensor || !tensor->defined()) return Tensor();
  const Sizes& s = call.sizes;
  check(*tensor, name, {s.batch, count * s.width()}, call.given);
  return heads_first(s, *tensor, s.batch, count, sum_dtype(call.dtype));
}

// The gradient of bias_m [of_h*H] from those of all of w_hh's rows [N, h_gates*K], the last of which they are.
Tensor bias_gradient(const Call& call, const Tensor& of_rows) {
  const Sizes& s = call.sizes;
  const CellShape& shape = s.cell;
  const Tensor out = fresh(Dimensions({shape.of_h * s.width()}), of_rows.dtype());
  transpose_vectors(of_rows, shape.sums, shape.h_gates(), s.heads, shape.of_h,
                    s.hidden * bytes_of(of_rows.dtype()), out);
  return to_dtype(out, call.given);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(
    const Tensor& x_part, const Tensor& h0, const Tensor& c0, const Tensor& weight_hh,
    const OptionalTensor& bias_m, const std::string& cell, bool save, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, double clip,
    const PrecisionOverride& precision) {
  const Call call = checked({
      .kind = Arguments::heads, .pass = Pass::forward, .x = x_part, .h0 = h0, .c0 = c0,
      .weights = {weight_hh}, .batch_sizes = batch_sizes, .not_reset = not_reset, .cell = cell,
      .directions = reverse ? -1 : 1, .precision = precision, .bias_m = bias_m, .clip = clip});
  const Sizes& s = call.sizes;
  const CellShape& shape = s.cell;
  Forward out = run_forward(call, save);
  const Tensor c_n = !s.cell.c_is_h
                         ? side_by_side(s, out.c_n, s.batch, shape.states, call.given)
                         : fresh(nothing, call.given);
  const bool keeps = save && shape.saved > 0;
  return {to_dtype(std::move(out.y), call.given), side_by_side(s, out.h_n, s.batch, 1, call.given),
          c_n, keeps ? std::move(out.c) : fresh(nothing, sum_dtype(call.dtype)),
          keeps ? to_dtype(std::move(out.gates), kept_dtype(call))
                : fresh(nothing, kept_dtype(call))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const Tensor& h0, const Tensor& c0, const Tensor& weight_hh, const OptionalTensor& bias_m,
    const Tensor& y, const Tensor& c, const Tensor& gates, const std::string& cell, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, double clip,
    const PrecisionOverride& precision, const OptionalTensor& dc) {
  const Call call = checked({
      .kind = Arguments::heads, .pass = Pass::backward, .x = y, .h0 = h0, .c0 = c0,
      .weights = {weight_hh}, .batch_sizes = batch_sizes, .not_reset = not_reset, .cell = cell,
      .directions = reverse ? -1 : 1, .precision = precision, .bias_m = bias_m, .clip = clip});
  const Sizes& s = call.sizes;
  const CellShape& shape = s.cell;
  const Dtype sums = sum_dtype(call.dtype);
  if (shape.saved) {
    check(c, "c", call.shape(s.heads, shape.states * s.hidden), sums);
    check(gates, "gates", call.shape(s.heads, shape.saved * s.hidden), kept_dtype(call));
  } else {  // what the forward returns where it saves nothing
    check(c, "c", nothing, sums);
    check(gates, "gates", nothing, kept_dtype(call));
  }
  Tensor by_y;
  if (dy && dy->defined()) {
    check(*dy, "dy", y.sizes(), call.given);
    by_y = converted(*dy, sums);
  }
  Tensor by_c, by_each;
  if (!s.cell.c_is_h) by_c = gradient_of(call, dc_n, "dc_n", shape.states);
  if (dc && shape.saved) {
    check(*dc, "dc", c.sizes(), sums);
    by_each = dc->contiguous();
  }
  const Forward by{by_y, gradient_of(call, dh_n, "dh_n", 1), by_c, Tensor(), by_each, Tensor()};
  const Forward saved{converted(y, call.dtype), Tensor(), Tensor(), Tensor(), c.contiguous(),
                      converted(gates, call.dtype)};
  Backward out = run_backward(call, by, saved, true);
  const Tensor db_m = out.db.defined() ? bias_gradient(call, out.db) : fresh(nothing, call.given);
  return {to_dtype(std::move(out.dx), call.given), side_by_side(s, out.dh0, s.batch, 1, call.given),
          side_by_side(s, out.dc0, s.batch, shape.states, call.given),
          to_dtype(std::move(out.dweights[0]), call.given), db_m};
}

}  // namespace fused_lstm
