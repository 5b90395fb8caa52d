// Registers the operators, and makes the library a Python module so that it is imported as one.
#include <Python.h>
#include <torch/library.h>

#include "isa/isa.h"
#include "memory.h"
#include "ops/ops.h"

TORCH_LIBRARY_IMPL(fused_lstm_native, CPU, m) {
  m.impl("cell", fused_lstm::cell);
  m.impl("cell_backward", fused_lstm::cell_backward);
  m.impl("lstm", fused_lstm::lstm);
  m.impl("lstm_backward", fused_lstm::lstm_backward);
  m.impl("linear_cross_entropy", fused_lstm::linear_cross_entropy);
  m.impl("dropout", fused_lstm::dropout);
  m.impl("packing", fused_lstm::packing);
  m.impl("gather", fused_lstm::gather);
}

TORCH_LIBRARY_FRAGMENT(fused_lstm_native, m) {
  m.def("isa_names(ScalarType? dtype=None) -> str[]", fused_lstm::isa_names);
  m.def("use_isa(str name) -> ()", fused_lstm::use_isa);
  m.def("release_memory() -> int", fused_lstm::release_memory);
  m.def("product_names() -> str[]", fused_lstm::product_names);
  m.def(
      "product(str name, Tensor left, Tensor right, int batch, int rounds)"
      " -> (Tensor out, float[] seconds)",
      fused_lstm::product);
  m.def("best_product(ScalarType dtype) -> float", fused_lstm::best_product);
  m.def("isa() -> str", fused_lstm::isa_name);
  m.def(
      "plan(int steps, int batch, int inputs, int hidden, int layers, str fuse, bool save, *,"
      " int directions=1, int projected=0, bool even=True, bool dropout=False,"
      " ScalarType dtype=float, int? threads=None, str isa=\"\") -> str",
      fused_lstm::plan);
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr,
                                   nullptr,               nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
