// Checks of an operator's arguments: a ValueError that names the argument, what it is and what it
// should be.
#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "isa/isa.h"
#include "refuse.h"
#include "tensor.h"

namespace fused_lstm {

struct Shown {
  Dimensions sizes;
};

// A shape as in a message: [2, 3].
inline std::ostream& operator<<(std::ostream& out, const Shown& shape) {
  const char* between = "[";
  if (shape.sizes.empty()) out << between;
  for (int64_t size : shape.sizes) out << std::exchange(between, ", ") << size;
  return out << "]";
}

inline Shown shown(const Tensor& tensor) { return {tensor.sizes()}; }

// The argument `name`, or of a list its element `index`.
inline void check(const Tensor& tensor, const char* name, Dimensions shape, Dtype dtype,
                  long index = -1) {
  const auto said = [&] {
    return index < 0 ? std::string(name) : std::string(name) + "[" + std::to_string(index) + "]";
  };
  CHECK_VALUE(tensor.sizes().equals(shape), said(), ": got shape ", shown(tensor), "; expected ",
              Shown{shape});
  CHECK_VALUE(tensor.dtype() == dtype, said(), ": got dtype ", tensor.dtype(), "; expected ",
              dtype);
  CHECK_VALUE(tensor.is_cpu(), said(), ": got another device; expected the CPU");
}

inline void check_fuse(const std::string& fuse) {
  CHECK_VALUE(fuse == "layers" || fuse == "steps", "fuse: got '", fuse,
              "'; expected 'steps' or 'layers'");
}

// Returns the dtype of computation: double for double, float for float and the 16-bit types.
inline Dtype compute_dtype(const Tensor& tensor, const char* name) {
  const Dtype dtype = tensor.dtype();
  CHECK_VALUE(dtype == Dtype::Float || dtype == Dtype::Double || dtype == Dtype::BFloat16 ||
                  dtype == Dtype::Half,
              name, ": got dtype ", dtype,
              "; expected float32, float64, bfloat16 or float16");
  return dtype == Dtype::Double ? Dtype::Double : Dtype::Float;
}

// Returns the dtype of factors for an operator that has kernels for bfloat16.
inline Dtype factor_dtype(const Tensor& tensor, const char* name, const Isa& isa) {
  const Dtype dtype = compute_dtype(tensor, name);
  return isa.for_bf16 && tensor.dtype() == Dtype::BFloat16 ? Dtype::BFloat16 : dtype;
}

// Returns the dtype of sums.
inline Dtype sum_dtype(Dtype dtype) {
  return dtype == Dtype::BFloat16 ? Dtype::Float : dtype;
}

// said: "<argument>: got".
inline void check_factors(Dtype dtype, const Isa& isa, const char* said) {
  const bool bf16 = isa.for_bf16 && dtype == Dtype::BFloat16;
  CHECK_VALUE(dtype == Dtype::Float || dtype == Dtype::Double || bf16, said, " ", dtype,
              "; expected float32", isa.for_bf16 ? ", bfloat16" : "", " or float64");
}

// A tensor's memory, whose elements are T: of a dtype that was checked.
template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data());
}

// A tensor in a dtype, and contiguous; itself where it is so already.
inline Tensor to_dtype(Tensor tensor, Dtype dtype) {
  if (tensor.dtype() != dtype) return tensor.to(dtype);
  return tensor;
}

inline Tensor converted(Tensor tensor, Dtype dtype) {
  Tensor result = to_dtype(std::move(tensor), dtype);
  if (!result.is_contiguous()) return result.contiguous();
  return result;
}

}  // namespace fused_lstm
