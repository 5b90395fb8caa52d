// Registers the operators. torch.ops.load_library loads it: there is no Python in here, and of
// LibTorch the stable ABI alone, so that one library serves every PyTorch and every Python.
#include "boxed.h"
#include "isa/isa.h"
#include "memory.h"
#include "ops/ops.h"

using fused_lstm::Boxed;

// Their meaning is in kernels/fused_lstm/ops.py, which adds shapes for graphs and derivatives.
STABLE_TORCH_LIBRARY_FRAGMENT(fused_lstm_native, m) {
  m.def("cell(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)");
  m.def(
      "cell_backward(Tensor gates, Tensor c, Tensor c_next, Tensor dh, Tensor dc_next)"
      " -> (Tensor dgates, Tensor dc)");
  m.def(
      "lstm(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, float dropout, Tensor? seed,"
      " str fuse, bool save, *, int directions=1, Tensor? batch_sizes=None, Tensor? keep=None,"
      " str cell=\"\", float[] rates=[], str? precision=None)"
      " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor h, Tensor c, Tensor gates)");
  m.def(
      "lstm_backward(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor h0, Tensor c0,"
      " Tensor[] weights, float dropout, Tensor? seed, str fuse, Tensor y, Tensor h, Tensor c,"
      " Tensor gates, bool needs_dx, *, int directions=1, Tensor? batch_sizes=None,"
      " Tensor? keep=None, str cell=\"\", float[] rates=[], str? precision=None, int samples=0)"
      " -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)");
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target,"
      " Tensor? row_grad, int ignore_index, str? precision=None)"
      " -> (Tensor loss, Tensor dhidden, Tensor dweight, Tensor dbias)");
  m.def(
      "recurrence(Tensor x_part, Tensor h0, Tensor c0, Tensor weight_hh, Tensor? bias_m, str cell,"
      " bool save, *, bool reverse=False, Tensor? batch_sizes=None, Tensor? keep=None,"
      " float clip=0., str? precision=None)"
      " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c, Tensor gates)");
  m.def(
      "recurrence_backward(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor h0, Tensor c0,"
      " Tensor weight_hh, Tensor? bias_m, Tensor y, Tensor c, Tensor gates, str cell, *,"
      " bool reverse=False, Tensor? batch_sizes=None, Tensor? keep=None, float clip=0.,"
      " str? precision=None)"
      " -> (Tensor dx_part, Tensor dh0, Tensor dc0, Tensor dweight_hh, Tensor dbias_m)");
  m.def("dropout(Tensor x, float p, Tensor seed, int first=0) -> Tensor");
  m.def(
      "packing(Tensor lengths, int steps, bool batch_first)"
      " -> (Tensor batch_sizes, Tensor order, Tensor back, Tensor places, Tensor back_places)");
  m.def("gather(Tensor x, Tensor index) -> Tensor");
  m.def(
      "prepared_lstm(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, int directions,"
      " Tensor? batch_sizes, Tensor? keep, str cell, bool weight_only=False)"
      " -> (Tensor y, Tensor h_n, Tensor c_n)");
  m.def("on_large_pages(Tensor given) -> Tensor");
  m.def("isa_names(ScalarType? dtype=None) -> str[]");
  m.def("use_isa(str name) -> ()");
  m.def("isa() -> str");
  m.def("add_cell(str name, int[] shape, int[] functions) -> ()");
  m.def("release_memory() -> int");
  m.def("keep_memory(bool keep) -> ()");
  m.def("limit_team(int workers) -> ()");
  m.def("control_words() -> int[]");
  m.def("set_control_words(int[] words) -> ()");
  m.def("flush_bits() -> int");
}

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
  m.impl("prepared_lstm", Boxed<fused_lstm::prepared_lstm>::call);
  m.impl("on_large_pages", Boxed<fused_lstm::on_large_pages>::call);
}

STABLE_TORCH_LIBRARY_IMPL(fused_lstm_native, CompositeExplicitAutograd, m) {
  m.impl("isa_names", Boxed<fused_lstm::isa_names>::call);
  m.impl("use_isa", Boxed<fused_lstm::use_isa>::call);
  m.impl("isa", Boxed<fused_lstm::isa_name>::call);
  m.impl("add_cell", Boxed<fused_lstm::add_cell>::call);
  m.impl("release_memory", Boxed<fused_lstm::release_memory>::call);
  m.impl("keep_memory", Boxed<fused_lstm::keep_memory>::call);
  m.impl("limit_team", Boxed<fused_lstm::limit_team>::call);
  m.impl("control_words", Boxed<fused_lstm::control_words>::call);
  m.impl("set_control_words", Boxed<fused_lstm::set_control_words>::call);
  m.impl("flush_bits", Boxed<fused_lstm::flush_bits_of_cpu>::call);
}
