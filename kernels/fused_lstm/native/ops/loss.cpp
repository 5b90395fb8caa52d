// The operator `linear_cross_entropy`: the losses of hidden [N, H] under the classes' weight
// [V, H], and, where the gradients of the losses are known (`row_grad`), those of all inputs, in
// float32 where these are in half precision.
#include "ops/check.h"
#include "isa/isa.h"
#include "memory.h"
#include "ops/ops.h"
#include "plan.h"

namespace fused_lstm {
namespace {

constexpr long logits_bytes = 16 << 20;  // of a chunk, at most; it stays in the last-level cache

// Checked targets, -1 where ignored.
Tensor checked_targets(const Tensor& target, long classes, long ignore_index) {
  const Tensor given = target.contiguous(), result = empty(target.sizes(), Dtype::Long);
  const int64_t* const labels = data_of<int64_t>(given);
  int64_t* const values = data_of<int64_t>(result);
  for (long n = 0, count = result.numel(); n < count; ++n) {
    values[n] = labels[n] == ignore_index ? -1 : labels[n];
    if (labels[n] == ignore_index) continue;
    CHECK_INDEX(values[n] >= 0 && values[n] < classes, "target: got ", values[n], " at ", n,
                "; expected a number in [0, ", classes, ") or ", ignore_index);
  }
  return result;
}

// Rows of a chunk: a multiple of `step`, nearly equal chunks, logits within `logits_bytes`.
long chunk_rows(long rows, long classes, long bytes, long step) {
  const long most = std::max(logits_bytes / (classes * bytes) / step * step, step);
  const long chunks = (rows + most - 1) / most;
  const long even = (rows + chunks - 1) / chunks;
  return (even + step - 1) / step * step;
}

template <class T>
struct Work {
  Tensor logits, exponentials, scaled, maxima, sums, scale, picked, panels;

  // `dtype` is that of T, and `sum` that of Sum<T>.
  Work(const Kernels<T>& kernels, long rows, long inputs, long classes, bool gradients,
       Dtype dtype, Dtype sum) {
    const long workers = team_size(), lanes = kernels.shapes.lanes;
    const long padded = (rows + lanes - 1) / lanes * lanes;
    const long size = kernels.blocks_size(1, rows, classes | 1);  // odd: enough for T and Sum<T>
    logits = fresh({size}, sum);
    exponentials = std::is_same_v<T, Sum<T>> ? logits : fresh({gradients ? size : 0}, dtype);
    scaled = fresh({gradients ? rows : 0, inputs}, dtype);
    maxima = empty({workers, padded}, sum);
    sums = empty({workers, padded}, sum);
    scale = empty({padded}, sum);
    picked = empty({padded}, sum);
    panels = fresh({workers, kernels.shapes.panel_size}, dtype);
  }

  void point(Loss<T>& loss) const {
    loss.logits = data_of<Sum<T>>(logits);
    loss.exponentials = data_of<T>(exponentials);
    loss.scaled = data_of<T>(scaled);
    loss.maxima = data_of<Sum<T>>(maxima);
    loss.sums = data_of<Sum<T>>(sums);
    loss.scale = data_of<Sum<T>>(scale);
    loss.picked = data_of<Sum<T>>(picked);
  }
};

struct Result {
  Tensor loss, dhidden, dweight, dbias;
};

// hidden and weight are of T, bias and row_grad of Sum<T>, and so are the results.
template <class T>
Result run(const Kernels<T>& kernels, const Tensor& hidden, const Tensor& weight,
           const Tensor& bias, const Tensor& target, const Tensor& row_grad) {
  const long rows = hidden.size(0), inputs = hidden.size(1), classes = weight.size(0);
  const bool gradients = row_grad.defined();
  const Dtype dtype = hidden.dtype(), sum = sum_dtype(dtype);
  const auto none = [&] { return empty({0}, sum); };
  Result out{empty({rows}, sum), none(), none(), none()};
  if (gradients) {
    out.dhidden = fresh(hidden.sizes(), sum);
    out.dweight = fresh(weight.sizes(), sum);
    if (bias.defined()) out.dbias = fresh(bias.sizes(), sum);
  }
  if (rows == 0) {
    for (const Tensor& sums : {std::cref(out.dweight), std::cref(out.dbias)}) {
      std::fill_n(data_of<Sum<T>>(sums), sums.numel(), Sum<T>(0));
    }
    return out;
  }
  const long at_once = chunk_rows(rows, classes, sizeof(Sum<T>), kernels.shapes.lanes);
  const Work<T> work(kernels, std::min(rows, at_once), inputs, classes, gradients, dtype, sum);
  for (long first = 0; first < rows; first += at_once) {
    Loss<T> loss{};
    loss.rows = std::min(rows - first, at_once);
    loss.inputs = inputs;
    loss.classes = classes;
    loss.hidden = data_of<T>(hidden) + first * inputs;
    loss.weight = data_of<T>(weight);
    loss.bias = bias.defined() ? data_of<Sum<T>>(bias) : nullptr;
    loss.target = data_of<int64_t>(target) + first;
    loss.loss = data_of<Sum<T>>(out.loss) + first;
    loss.add = first > 0;
    if (gradients) {
      loss.row_grad = data_of<Sum<T>>(row_grad) + first;
      loss.dhidden = data_of<Sum<T>>(out.dhidden) + first * inputs;
      loss.dweight = data_of<Sum<T>>(out.dweight);
      loss.dbias = bias.defined() ? data_of<Sum<T>>(out.dbias) : nullptr;
    }
    work.point(loss);
    T* const panels = data_of<T>(work.panels);
    run_on_team([&](const Worker& worker) { kernels.cross_entropy(worker, loss, panels); });
  }
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    const OptionalTensor& row_grad, int64_t ignore_index, const PrecisionOverride& precision) {
  const Isa& isa = current_isa();
  const Dtype given = hidden.dtype(), dtype = factor_dtype(hidden, "hidden", isa);
  const Dtype sum = sum_dtype(dtype);
  // Its products split both factors tile by tile, as a backward pass does.
  const int terms = terms_worth(terms_of(given, precision), Pass::backward, 0);
  CHECK_VALUE(hidden.dim() == 2, "hidden: got shape ", shown(hidden), "; expected [N, H]");
  CHECK_VALUE(weight.dim() == 2 && weight.size(0) > 0, "weight: got shape ", shown(weight),
              "; expected [V, H]");
  check(weight, "weight", {weight.size(0), hidden.size(1)}, given);
  if (bias) check(*bias, "bias", {weight.size(0)}, given);
  check(target, "target", {hidden.size(0)}, Dtype::Long);
  if (row_grad) check(*row_grad, "row_grad", {hidden.size(0)}, sum);
  const Tensor checked = checked_targets(target, weight.size(0), ignore_index);
  const auto to = [](const OptionalTensor& tensor, Dtype dtype) {
    return tensor ? converted(*tensor, dtype) : Tensor();
  };
  const Result out = with_factors(dtype, terms, isa, [&](const auto& kernels) {
    return run(kernels, to(hidden, dtype), to(weight, dtype), to(bias, sum), checked,
               to(row_grad, sum));
  });
  return {out.loss, out.dhidden, out.dweight, out.dbias};
}

}  // namespace fused_lstm
