// The recurrence of a layer's heads, in one direction, whose input product has been made: the
// operators `recurrence` and `recurrence_backward`. Schemas: kernels/fused_lstm/schemas.txt.
//
// Heads are lanes of one layer. In the operators' rows they lie side by side, here one after another.
#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/call.h"

namespace fused_lstm {
namespace {

// --- heads side by side, and one after another ---

// Transposes a matrix [rows, columns] of vectors of so many bytes, whose rows lie `stride` vectors apart.
void transpose_vectors(const Tensor& from, long first, long stride, long rows, long columns,
                       long bytes, const Tensor& to) {
  const char* const in = static_cast<const char*>(from.data()) + first * bytes;
  char* const out = static_cast<char*>(to.data());
  for (long row = 0; row < rows; ++row) {
    for (long column = 0; column < columns; ++column) {
      std::memcpy(out + (column * rows + row) * bytes, in + (row * stride + column) * bytes, bytes);
    }
  }
}

// Rows [batch, count*N*K], heads side by side in each of `count` vectors of a row, in a dtype as
// [N, batch, count*K].
Tensor heads_first(const Sizes& s, const Tensor& given, long batch, long count, Dtype dtype) {
  const Tensor rows = converted(given, dtype);
  const Tensor heads = fresh(Dimensions({s.heads, batch, count * s.hidden}), dtype);
  transpose_vectors(rows, 0, s.heads, batch * count, s.heads, s.hidden * bytes_of(dtype), heads);
  return heads;
}

// The way back, in a dtype too.
Tensor side_by_side(const Sizes& s, const Tensor& heads, long batch, long count, Dtype dtype) {
  const Tensor rows = fresh(Dimensions({batch, count * s.heads * s.hidden}), heads.dtype());
  const long bytes = s.hidden * bytes_of(heads.dtype());
  transpose_vectors(heads, 0, batch * count, s.heads, batch * count, bytes, rows);
  return to_dtype(rows, dtype);
}

constexpr long square = 16;  // of a matrix that is transposed

// The rows `first` to `last` of a matrix, of one whose rows are its columns. A square goes by way of
// a small one: lines a power of two apart, as those of a weight may be, share a set of the cache.
template <class T>
void transpose(const T* from, long rows, long columns, long first, long last, T* to) {
  T small[square][square];
  for (long column = 0; column < columns; column += square) {
    const long width = std::min(square, columns - column);
    for (long k = 0; k < width; ++k) {
      std::copy_n(from + (column + k) * rows + first, last - first, small[k]);
    }
    for (long row = first; row < last; ++row) {
      T* const out = to + row * columns + column;
      for (long k = 0; k < width; ++k) out[k] = small[k][row - first];
    }
  }
}

// weight_hh [N, G*K, K] in a dtype, contiguous. DreamerV3 and TiRex have [N, K, G*K] in memory, of
// which aten::contiguous makes a copy in the time of a hundred steps.
Tensor weight_of(const Tensor& weight, Dtype dtype) {
  if (weight.dtype() != dtype || dtype == Dtype::BFloat16 || !weight.is_transposed()) {
    return converted(weight, dtype);
  }
  const Tensor own = fresh(weight.sizes(), dtype);
  const long count = weight.size(0), rows = weight.size(1), columns = weight.size(2);
  const long blocks = (rows + square - 1) / square;
  const auto copy = [&](const auto* element) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    run_on_team(weight.numel() < 1 << 16 ? 1 : team_size(), [&](const Worker& worker) {
      for (long i = worker.id; i < count * blocks; i += worker.count) {
        const long n = i / blocks, first = i % blocks * square;
        transpose(element + n * rows * columns, rows, columns, first,
                  std::min(first + square, rows), data_of<E>(own) + n * rows * columns);
      }
    });
  };
  if (dtype == Dtype::Double) copy(data_of<const double>(weight));
  if (dtype == Dtype::Float) copy(data_of<const float>(weight));
  return own;
}

// --- a call ---

// The dtype of gates that a forward saves. A cell of several states is computed in float32, and its
// backward may compare what it saved: rounded, it would decide otherwise than the step.
Dtype kept_dtype(const Call& call) {
  return call.sizes.cell.states > 1 ? call.dtype : call.given;
}

// rows: x_part or, backwards, y.
Call checked_call(Pass pass, const Tensor& rows, const Tensor& h0, const Tensor& c0,
                  const Tensor& weight, const OptionalTensor& bias_m, const std::string& cell,
                  bool reverse, const OptionalTensor& batch_sizes, const OptionalTensor& not_reset,
                  double clip, const PrecisionOverride& precision) {
  const bool forward = pass == Pass::forward;
  const char* const name = forward ? "x_part" : "y";
  Call call{};
  Sizes& s = call.sizes;
  call.isa = &current_isa();
  call.cell = &lane_cell_of(*call.isa, cell);
  s.cell = call.cell->shape;
  const CellShape& shape = s.cell;
  const long gates = shape.h_gates();
  CHECK_VALUE(weight.dim() == 3 && weight.numel() > 0 && weight.size(1) == gates * weight.size(2),
              "weight_hh: got shape ", shown(weight), "; expected [N, ", gates,
              "K, K], N and K not 0");
  call.packed = batch_sizes.has_value();
  CHECK_VALUE(rows.dim() == (call.packed ? 2 : 3), name, ": got shape ", shown(rows),
              "; expected ", call.packed ? "[N, G*H] with batch_sizes" : "[T, B, G*H]");
  CHECK_VALUE(h0.dim() == 2, "h0: got shape ", shown(h0), "; expected [B, H]");
  CHECK_VALUE(clip >= 0, "clip: got ", clip, "; expected 0 or more");
  s.given = true;
  s.layers = s.directions = 1;
  s.heads = weight.size(0);
  s.hidden = s.outputs = weight.size(2);
  s.batch = h0.size(0);
  set_rows(call, rows, batch_sizes, not_reset);
  set_dtypes(call, rows, name, pass, shape.states > 1, precision);
  const long H = s.width();
  check(rows, name, call.shape(forward ? s.given_columns() : H), call.given);
  check(h0, "h0", {s.batch, H}, call.given);
  check(c0, "c0", {s.batch, shape.states * H}, call.given);
  check(weight, "weight_hh", weight.sizes(), call.given);
  call.together = true;
  call.reverse = reverse;
  call.clip = clip;
  if (forward) call.x = converted(rows, call.dtype);
  call.h0 = heads_first(s, h0, s.batch, 1, call.dtype);
  call.c0 = heads_first(s, c0, s.batch, shape.states, sum_dtype(call.dtype));
  call.weights = {weight_of(weight, call.weight_dtype)};
  if (bias_m) {
    check(*bias_m, "bias_m", {shape.of_h * H}, call.given);
    if (shape.of_h > 0) call.b_m = heads_first(s, *bias_m, 1, shape.of_h, call.dtype);
  }
  return call;
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
  const Call call = checked_call(Pass::forward, x_part, h0, c0, weight_hh, bias_m, cell, reverse,
                                 batch_sizes, not_reset, clip, precision);
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
  const Call call = checked_call(Pass::backward, y, h0, c0, weight_hh, bias_m, cell, reverse,
                                 batch_sizes, not_reset, clip, precision);
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
