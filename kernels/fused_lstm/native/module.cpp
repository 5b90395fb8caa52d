// Registers the operators. torch.ops.load_library loads it: there is no Python in here, and of
// LibTorch the stable ABI alone, so that one library serves every PyTorch and every Python.
#include "boxed.h"
#include "isa/isa.h"
#include "memory.h"
#include "ops/ops.h"

using fused_lstm::Boxed;

STABLE_TORCH_LIBRARY_IMPL(fused_lstm_native, CPU, m) {
  m.impl("cell", Boxed<fused_lstm::cell>::call);
  m.impl("cell_backward", Boxed<fused_lstm::cell_backward>::call);
  m.impl("lstm", Boxed<fused_lstm::lstm>::call);
  m.impl("lstm_backward", Boxed<fused_lstm::lstm_backward>::call);
  m.impl("recurrence", Boxed<fused_lstm::recurrence>::call);
  m.impl("recurrence_backward", Boxed<fused_lstm::recurrence_backward>::call);
  m.impl("linear_cross_entropy", Boxed<fused_lstm::linear_cross_entropy>::call);
  m.impl("dropout", Boxed<fused_lstm::dropout>::call);
  m.impl("packing", Boxed<fused_lstm::packing>::call);
  m.impl("gather", Boxed<fused_lstm::gather>::call);
}

STABLE_TORCH_LIBRARY_FRAGMENT(fused_lstm_native, m) {
  m.def("isa_names(ScalarType? dtype=None) -> str[]");
  m.def("use_isa(str name) -> ()");
  m.def("isa() -> str");
  m.def("release_memory() -> int");
  m.def("keep_memory(bool keep) -> ()");
  m.def("poison_memory(bool poison) -> ()");
  m.def("limit_team(int workers) -> ()");
  m.def("product_names() -> str[]");
  m.def(
      "product(str name, Tensor left, Tensor right, int batch, int rounds,"
      " str? precision=None) -> (Tensor out, float[] seconds)");
  m.def("best_product(ScalarType dtype, str? precision=None) -> float");
  m.def(
      "plan(int steps, int batch, int inputs, int hidden, int layers, str fuse, bool save, *,"
      " int directions=1, int projected=0, bool even=True, bool dropout=False,"
      " ScalarType dtype=float, int? threads=None, str isa=\"\","
      " str? precision=None) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(fused_lstm_native, CompositeExplicitAutograd, m) {
  m.impl("isa_names", Boxed<fused_lstm::isa_names>::call);
  m.impl("use_isa", Boxed<fused_lstm::use_isa>::call);
  m.impl("isa", Boxed<fused_lstm::isa_name>::call);
  m.impl("release_memory", Boxed<fused_lstm::release_memory>::call);
  m.impl("keep_memory", Boxed<fused_lstm::keep_memory>::call);
  m.impl("poison_memory", Boxed<fused_lstm::poison_memory>::call);
  m.impl("limit_team", Boxed<fused_lstm::limit_team>::call);
  m.impl("product_names", Boxed<fused_lstm::product_names>::call);
  m.impl("product", Boxed<fused_lstm::product>::call);
  m.impl("best_product", Boxed<fused_lstm::best_product>::call);
  m.impl("plan", Boxed<fused_lstm::plan>::call);
}
