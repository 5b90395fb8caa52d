// fuse="pointwise": the operators `cell` and `cell_backward`. Schemas: kernels/fused_lstm/ops.py.
#include "ops/ops.h"

#include "ops/check.h"
#include "isa/isa.h"

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

template <class T>
void run_cell(const Kernels<T>& kernels, const at::Tensor& gates, const at::Tensor& c,
              const at::Tensor& h, const at::Tensor& c_next) {
  run_rows(c.numel(), [&](const Worker& worker) {
    kernels.cell(worker, c.size(0), c.size(1), gates.data_ptr<T>(), c.data_ptr<T>(),
                 h.data_ptr<T>(), c_next.data_ptr<T>());
  });
}

template <class T>
void run_cell_backward(const Kernels<T>& kernels, const at::Tensor& gates, const at::Tensor& c,
                       const at::Tensor& c_next, const at::Tensor& dh, const at::Tensor& dc_next,
                       const at::Tensor& dgates, const at::Tensor& dc) {
  run_rows(c.numel(), [&](const Worker& worker) {
    kernels.cell_backward(worker, c.size(0), c.size(1), gates.data_ptr<T>(), c.data_ptr<T>(),
                          c_next.data_ptr<T>(), dh.data_ptr<T>(), dc_next.data_ptr<T>(),
                          dgates.data_ptr<T>(), dc.data_ptr<T>());
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> cell(const at::Tensor& gates, const at::Tensor& c) {
  check_cell(gates, c);
  const at::ScalarType dtype = c.scalar_type();
  const at::Tensor g = converted(gates, dtype), state = c.contiguous();
  const at::Tensor h = at::empty_like(state), c_next = at::empty_like(state);
  with_kernels(dtype, [&](const auto& kernels) { run_cell(kernels, g, state, h, c_next); });
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
  with_kernels(dtype, [&](const auto& kernels) {
    run_cell_backward(kernels, g, state, next, by_h, by_c, dgates, dc);
  });
  return {dgates.to(gates.scalar_type()), dc};
}

}  // namespace fused_lstm
