// All kernels for one instruction set: included by isa_*.cpp, which say which.

#include "cells/lstm.h"
#include "product/alone.h"
#include "wavefront.h"

namespace fused_lstm::FL_ISA {

// Constants: code that ran when the library is loaded would run on every CPU.
template <class T>
constexpr Kernels<T> table = {FL_NAME,
                              shapes<T>,
                              recurrent_size<T>,
                              wavefront_size<T>,
                              Blocks<T>::size,
                              cell<T>,
                              cell_backward<T>,
                              sweep_forward<T>,
                              sweep_backward<T>,
                              gradients<T>,
                              wavefront_forward<T>,
                              wavefront_backward<T>,
                              dropout<T>,
                              cross_entropy<T>,
                              prepare_product<T>,
                              one_product<T>,
                              best_product<T>};

extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
constexpr Kernels<float> float_kernels = table<float>;
constexpr Kernels<double> double_kernels = table<double>;

}  // namespace fused_lstm::FL_ISA
