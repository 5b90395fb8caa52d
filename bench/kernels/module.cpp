// Registers what only tests and measurements call, and AMX emulated as one more instruction set.
// It is linked to the engine's library, which has all else.
#include "boxed.h"
#include "isa/isa.h"
#include "memory.h"
#include "ops.h"

// FL_EMULATOR: with AMX emulated, which takes most of the build and only tests run.

namespace fused_lstm {

#ifdef FL_EMULATOR
namespace emulated {
extern const Kernels<Bf16> bf16_kernels;
}  // namespace emulated
namespace emulated_1 {
extern const Kernels<float> float_kernels;
}  // namespace emulated_1
namespace emulated_2 {
extern const Kernels<float> float_kernels;
}  // namespace emulated_2
namespace emulated_prepared {
extern const PreparedSweep bfloat16_sweep, int8_sweep;
}  // namespace emulated_prepared

namespace {

const bool added = [] {
  const Isa& base = isa_of(isa_names({}).back());
  const auto with_cells = [](PreparedSweep sweep) {  // whose vectors are longer than base's
    sweep.own_cell = emulated_1::float_kernels.own_cell;
    return sweep;
  };
  static Isa isa = {"emulated", true, base.for_float, base.for_double,
                    &emulated::bf16_kernels,
                    {&emulated_1::float_kernels, &emulated_2::float_kernels},
                    with_cells(emulated_prepared::bfloat16_sweep),
                    with_cells(emulated_prepared::int8_sweep)};
  add_isa(isa);
  return true;
}();

}  // namespace
#endif
}  // namespace fused_lstm

using fused_lstm::Boxed;

STABLE_TORCH_LIBRARY_FRAGMENT(fused_lstm_bench, m) {
  m.def("poison_memory(bool poison) -> ()");
  m.def("product_names() -> str[]");
  m.def(
      "product(str name, Tensor left, Tensor right, int batch, int rounds,"
      " str? precision=None) -> (Tensor out, float[] seconds)");
  m.def("best_product(ScalarType dtype, str? precision=None) -> float");
  m.def(
      "plan(int steps, int batch, int inputs, int hidden, int layers, str fuse, bool save, *,"
      " int directions=1, int projected=0, bool even=True, bool dropout=False,"
      " ScalarType dtype=float, int? threads=None, str isa=\"\","
      " str? precision=None, str cell=\"\", int meeting=0, bool prepared=False) -> str");
  m.def("meeting_time(int workers) -> int");
  m.def("fetching(bool intel, int l2, int registers) -> int[]");
  m.def("prepared_ahead(bool intel, int l2, int bytes) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(fused_lstm_bench, CompositeExplicitAutograd, m) {
  m.impl("poison_memory", Boxed<fused_lstm::poison_memory>::call);
  m.impl("meeting_time", Boxed<fused_lstm::meeting_of>::call);
  m.impl("product_names", Boxed<fused_lstm::product_names>::call);
  m.impl("product", Boxed<fused_lstm::product>::call);
  m.impl("best_product", Boxed<fused_lstm::best_product>::call);
  m.impl("plan", Boxed<fused_lstm::plan>::call);
  m.impl("fetching", Boxed<fused_lstm::fetching>::call);
  m.impl("prepared_ahead", Boxed<fused_lstm::prepared_ahead>::call);
}
