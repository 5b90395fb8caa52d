// fuse="pointwise": the operators `cell` and `cell_backward`. Schemas: kernels/fused_lstm/ops.py.
#include "ops.h"

#include "check.h"
#include "isa.h"

namespace fused_lstm {
namespace {

constexpr long worth_a_thread = 4096;  // cells: below it, waking another thread costs more

// One pass on as many threads as it is worth.
template <class Body>
void run_rows(long cells, const Body& body) {
  if (cells <= worth_a_thread) return body(Worker{});
  run_on_team(body);
}

void check_cell(const at::Tensor& gates, const at::Tensor& c) {
  TORCH_CHECK_VALUE(gates.dim() == 2 && gates.size(1) % 4 == 0, "gates: got shape ", gates.sizes(),
                    ", should be [B, 4H]");
  check(c, "c", {gates.size(0), gates.size(1) / 4}, compute_dtype(gates, "gates"));
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> cell(const at::Tensor& gates, const at::Tensor& c) {
  check_cell(gates, c);
  const at::ScalarType dtype = c.scalar_type();
  const at::Tensor g = converted(gates, dtype), state = c.contiguous();
  const at::Tensor h = at::empty_like(state), c_next = at::empty_like(state);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    run_rows(c.numel(), [&](const Worker& worker) {
      kernels<T>().cell(worker, c.size(0), c.size(1), g.data_ptr<T>(), state.data_ptr<T>(),
                        h.data_ptr<T>(), c_next.data_ptr<T>());
    });
  });
  return {h.to(gates.scalar_type()), c_next};
}

std::tuple<at::Tensor, at::Tensor> cell_backward(const at::Tensor& gates, const at::Tensor& c,
                                                 const at::Tensor& c_next, const at::Tensor& dh,
                                                 const at::Tensor& dc_next) {
  check_cell(gates, c);
  const at::ScalarType dtype = c.scalar_type();
  check(c_next, "c_next", c.sizes(), dtype);
  check(dh, "dh", c.sizes(), gates.scalar_type());
  check(dc_next, "dc_next", c.sizes(), dtype);
  const at::Tensor g = converted(gates, dtype), state = c.contiguous(), next = c_next.contiguous();
  const at::Tensor by_h = converted(dh, dtype), by_c = dc_next.contiguous();
  const at::Tensor dgates = at::empty_like(g), dc = at::empty_like(state);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    run_rows(c.numel(), [&](const Worker& worker) {
      kernels<T>().cell_backward(worker, c.size(0), c.size(1), g.data_ptr<T>(),
                                 state.data_ptr<T>(), next.data_ptr<T>(), by_h.data_ptr<T>(),
                                 by_c.data_ptr<T>(), dgates.data_ptr<T>(), dc.data_ptr<T>());
    });
  });
  return {dgates.to(gates.scalar_type()), dc};
}

}  // namespace fused_lstm
