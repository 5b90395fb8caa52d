// The operator `dropout`: x times a mask drawn from a seed, as the dropout_mask of
// kernels/fused_lstm/reference.py.
#include "ops/drop.h"
#include "memory.h"

namespace fused_lstm {
namespace {

template <class T>
void drop_all(const Kernels<T>& kernels, const Dropout& dropout, long first, const at::Tensor& in,
              const at::Tensor& out) {
  drop(kernels.dropout, dropout, in.numel(), first, in.data_ptr<T>(), out.data_ptr<T>());
}

}  // namespace

at::Tensor dropout(const at::Tensor& x, double p, const at::Tensor& seed, int64_t first) {
  const at::ScalarType dtype = compute_dtype(x, "x");
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, "p: got ", p, ", should be in [0, 1]");
  TORCH_CHECK_VALUE(first >= 0, "first: got ", first, ", should be at least 0");
  check(seed, "seed", {1}, at::kLong);
  const at::Tensor in = converted(x, dtype), out = fresh_like(in);
  with_kernels(dtype, [&](const auto& kernels) {
    drop_all(kernels, dropout_of(p, seed), first, in, out);
  });
  return out.to(x.scalar_type());
}

}  // namespace fused_lstm
