// fuse="pointwise": the operators `cell` and `cell_backward`. Schemas: kernels/fused_lstm/schemas.txt.
#include "ops/ops.h"

#include "ops/check.h"
#include "isa/isa.h"
#include "memory.h"

namespace fused_lstm {
namespace {

constexpr long worth_a_thread = 4096;  // cells: below it, waking another thread costs more

// One pass on as many threads as it is worth.
template <class Body>
void run_rows(long cells, const Body& body) {
  run_on_team(cells <= worth_a_thread ? 1 : team_size(), body);
}

void check_cell(const Tensor& gates, const Tensor& c) {
  CHECK_VALUE(gates.dim() == 2 && gates.size(1) % 4 == 0, "gates: got shape ", shown(gates),
              "; expected [B, 4H]");
  check(c, "c", {gates.size(0), gates.size(1) / 4}, compute_dtype(gates, "gates"));
}

template <class T>
void run_cell(const Kernels<T>& kernels, const Tensor& gates, const Tensor& c,
              const Tensor& h, const Tensor& c_next) {
  run_rows(c.numel(), [&](const Worker& worker) {
    kernels.cell(worker, c.size(0), c.size(1), data_of<T>(gates), data_of<T>(c),
                 data_of<T>(h), data_of<T>(c_next));
  });
}

template <class T>
void run_cell_backward(const Kernels<T>& kernels, const Tensor& gates, const Tensor& c,
                       const Tensor& c_next, const Tensor& dh, const Tensor& dc_next,
                       const Tensor& dgates, const Tensor& dc) {
  run_rows(c.numel(), [&](const Worker& worker) {
    kernels.cell_backward(worker, c.size(0), c.size(1), data_of<T>(gates), data_of<T>(c),
                          data_of<T>(c_next), data_of<T>(dh), data_of<T>(dc_next),
                          data_of<T>(dgates), data_of<T>(dc));
  });
}

}  // namespace

std::tuple<Tensor, Tensor> cell(const Tensor& gates, const Tensor& c) {
  check_cell(gates, c);
  const Dtype dtype = c.dtype();
  const Tensor g = converted(gates, dtype), state = c.contiguous();
  const Tensor h = fresh_like(state), c_next = fresh_like(state);
  with_kernels(dtype, [&](const auto& kernels) { run_cell(kernels, g, state, h, c_next); });
  return {h.to(gates.dtype()), c_next};
}

std::tuple<Tensor, Tensor> cell_backward(const Tensor& gates, const Tensor& c,
                                                 const Tensor& c_next, const Tensor& dh,
                                                 const Tensor& dc_next) {
  check_cell(gates, c);
  const Dtype dtype = c.dtype();
  check(c_next, "c_next", c.sizes(), dtype);
  check(dh, "dh", c.sizes(), gates.dtype());
  check(dc_next, "dc_next", c.sizes(), dtype);
  const Tensor g = converted(gates, dtype), state = c.contiguous(), next = c_next.contiguous();
  const Tensor by_h = converted(dh, dtype), by_c = dc_next.contiguous();
  const Tensor dgates = fresh_like(g), dc = fresh_like(state);
  with_kernels(dtype, [&](const auto& kernels) {
    run_cell_backward(kernels, g, state, next, by_h, by_c, dgates, dc);
  });
  return {dgates.to(gates.dtype()), dc};
}

}  // namespace fused_lstm
