// Registers the operators. torch.ops.load_library loads it. It needs no Python, and of LibTorch the stable
// ABI alone, so that one library serves every PyTorch and every Python.
#include <algorithm>
#include <string>
#include <string_view>

#include "boxed.h"
#include "isa/isa.h"
#include "memory.h"
#include "ops/ops.h"

using fused_lstm::Boxed;

// Their meaning is in kernels/fused_lstm/operator/ops.py, which adds shapes for graphs and derivatives.
constexpr std::string_view schemas =
#include "../schemas.txt"
    ;

STABLE_TORCH_LIBRARY_FRAGMENT(fused_lstm_native, m) {
  for (size_t begin = 0, end = 0; end != schemas.npos; begin = end + 2) {
    end = schemas.find("\n\n", begin);
    std::string schema(schemas.substr(begin, end - begin));
    std::replace(schema.begin(), schema.end(), '\n', ' ');
    m.def(schema.c_str());
  }
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
