// All kernels for one instruction set: included by the files beside it, which say which. One that
// defines FL_BF16 has those of bfloat16 factors, or with FL_TERMS those of float32 as sums of so
// many of them, the others those of float32 and float64. What is more than every CPU of the
// architecture has is compiled where FL_TARGET says so, and run only where isa.cpp does. Who defines
// FL_INSTEAD has that file's contents for the instruction set, and not the kernels; with FL_CELL too it is
// a cell, which needs no intrinsics: their header takes longer to read than a cell to compile.

// All from outside, before the target and the visibility: its inline functions are every file's.
#include <cstddef>
#include <cstdint>
#include <utility>

#include "isa/caches.h"
#include "isa/kernels.h"

// A file that FL_INSTEAD includes beside these may have this file's visibility and target: what it
// declares is declared nowhere else.

#if defined(FL_TARGET) && !defined(FL_CELL)
#include <immintrin.h>
#endif

#define FL_PRAGMA(...) FL_PRAGMA_OF(__VA_ARGS__)
#define FL_PRAGMA_OF(...) _Pragma(#__VA_ARGS__)

#if defined(FL_TARGET) && defined(__clang__)
FL_PRAGMA(clang attribute push(__attribute__((target(FL_TARGET))), apply_to = function))
#elif defined(FL_TARGET)
FL_PRAGMA(GCC push_options)
FL_PRAGMA(GCC target(FL_TARGET))
#if FL_BYTES == 64
FL_PRAGMA(GCC target("prefer-vector-width=512"))
#endif
#endif

FL_PRAGMA(GCC visibility push(hidden))

#if defined(FL_INSTEAD)
#include FL_INSTEAD
#else

#include "isa/convert.h"
#include "loss.h"
#include "sweep_backward.h"
#include "sweep_phases.h"
#include "wavefront.h"

namespace fused_lstm::FL_ISA {

template <class T>
constexpr Kernels<T> table() {
  Kernels<T> table{};
  table.name = FL_NAME;
  table.factors = factors_of<T>;
  table.own_cell = own_cell<T>;
  table.shapes = shapes<T>;
  table.recurrent_size = recurrent_size<T>;
  table.wavefront_size = wavefront_size<T>;
  table.blocks_size = Blocks<T>::size;
  table.ready_size = ready_size<T>;
  table.sweep_forward = sweep_forward<T>;
  table.sweep_backward = sweep_backward<T>;
  table.gradients = gradients<T>;
  table.wavefront_forward = wavefront_forward<T>;
  table.wavefront_backward = wavefront_backward<T>;
  table.dropout = dropout<T>;
  table.dropout_gradient = dropout<Sum<T>>;
  table.draw_mask = draw_mask<Sum<T>>;
  table.cross_entropy = cross_entropy<T>;
  if constexpr (!by_terms<T>) {  // whose float32 is multiplied as it is here
    if constexpr (deep<T> == 1) {
      table.cell = cell<T>;
      table.cell_backward = cell_backward<T>;
      table.short_forward = short_sweep<T, T>;
    }
    if constexpr (std::is_same_v<T, float>) {
      table.short_forward_bf16 = short_sweep<T, Bf16>;
      table.widen = widen;
      table.narrow = narrow;
    }
  }
  return table;
}

// Constants: code that ran when the library is loaded would run on every CPU.
#if defined(FL_TERMS)
extern const Kernels<float> float_kernels;
constexpr Kernels<float> float_kernels = table<float>();
#elif defined(FL_BF16)
extern const Kernels<Bf16> bf16_kernels;
constexpr Kernels<Bf16> bf16_kernels = table<Bf16>();
#else
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
constexpr Kernels<float> float_kernels = table<float>();
constexpr Kernels<double> double_kernels = table<double>();
#endif

}  // namespace fused_lstm::FL_ISA

#endif

FL_PRAGMA(GCC visibility pop)

#if defined(FL_TARGET) && defined(__clang__)
FL_PRAGMA(clang attribute pop)
#elif defined(FL_TARGET)
FL_PRAGMA(GCC pop_options)
#endif
