// The operator `dropout`: x times a mask drawn from a seed, as the dropout_mask of
// kernels/fused_lstm/reference/__init__.py.
#include "ops/drop.h"
#include "memory.h"

namespace fused_lstm {
namespace {

template <class T>
void drop_all(const Kernels<T>& kernels, const Dropout& dropout, long first, const Tensor& in,
              const Tensor& out) {
  drop(kernels.dropout, dropout, in.numel(), first, data_of<T>(in), data_of<T>(out));
}

}  // namespace

Tensor dropout(const Tensor& x, double p, const Tensor& seed, int64_t first) {
  const Dtype dtype = compute_dtype(x, "x");
  CHECK_VALUE(p >= 0 && p <= 1, "p: got ", p, "; expected a number in [0, 1]");
  CHECK_VALUE(first >= 0, "first: got ", first, "; expected at least 0");
  check(seed, "seed", {1}, Dtype::Long);
  const Tensor in = converted(x, dtype), out = fresh_like(in);
  with_kernels(dtype, [&](const auto& kernels) {
    drop_all(kernels, dropout_of(p, seed), first, in, out);
  });
  return out.to(x.dtype());
}

}  // namespace fused_lstm
