// Checks of an operator's arguments: a ValueError that names the argument, what it is and what it
// should be.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <string_view>
#include <type_traits>

#include "isa/isa.h"

namespace fused_lstm {

// The argument `name`, or of a list its element `index`.
inline void check(const at::Tensor& tensor, const char* name, at::IntArrayRef shape,
                  at::ScalarType dtype, long index = -1) {
  const auto said = [&] {
    return index < 0 ? std::string(name) : std::string(name) + "[" + std::to_string(index) + "]";
  };
  TORCH_CHECK_VALUE(tensor.sizes() == shape, said(), ": got shape ", tensor.sizes(),
                    ", should be ", shape);
  TORCH_CHECK_VALUE(tensor.scalar_type() == dtype, said(), ": got dtype ", tensor.scalar_type(),
                    ", should be ", dtype);
  TORCH_CHECK_VALUE(tensor.is_cpu(), said(), ": got device ", tensor.device(),
                    ", should be cpu");
}

inline void check_fuse(std::string_view fuse) {
  TORCH_CHECK_VALUE(fuse == "layers" || fuse == "steps", "fuse: got '", fuse,
                    "', should be 'steps' or 'layers'");
}

// What it is computed in: double for double, float for float and for the 16-bit types.
inline at::ScalarType compute_dtype(const at::Tensor& tensor, const char* name) {
  const at::ScalarType dtype = tensor.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 ||
                        dtype == at::kHalf,
                    name, ": got dtype ", dtype,
                    ", should be float32, float64, bfloat16 or float16");
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// What an operator computes a dtype in that has kernels for bfloat16.
inline at::ScalarType factor_dtype(const at::Tensor& tensor, const char* name, const Isa& isa) {
  const at::ScalarType dtype = compute_dtype(tensor, name);
  return isa.for_bf16 && tensor.scalar_type() == at::kBFloat16 ? at::kBFloat16 : dtype;
}

// What it sums it in.
inline at::ScalarType sum_dtype(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? at::kFloat : dtype;
}

// said: "<argument>: got".
inline void check_factors(at::ScalarType dtype, const Isa& isa, const char* said) {
  const bool bf16 = isa.for_bf16 && dtype == at::kBFloat16;
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble || bf16, said, " ", dtype,
                    ", should be float32", isa.for_bf16 ? ", bfloat16" : "", " or float64");
}

// A tensor's memory, whose elements are T.
template <class T>
T* data_of(const at::Tensor& tensor) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return reinterpret_cast<Bf16*>(tensor.data_ptr<at::BFloat16>());
  } else {
    return tensor.data_ptr<T>();
  }
}

// A tensor in a dtype. The dispatcher is asked only where something is to be done, here and below:
// at one step and one row its calls take as long as the kernel.
inline at::Tensor to_dtype(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

inline at::Tensor converted(const at::Tensor& tensor, at::ScalarType dtype) {
  const at::Tensor result = to_dtype(tensor, dtype);
  return result.is_contiguous() ? result : result.contiguous();
}

}  // namespace fused_lstm
