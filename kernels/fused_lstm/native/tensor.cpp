#include "tensor.h"

#include "isa/isa.h"
#include "refuse.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace fused_lstm {
namespace {

namespace stable = torch::stable::detail;

// Strides of a contiguous tensor, without asking the system for memory where there are few.
class Strides {
 public:
  explicit Strides(Dimensions shape) {
    if (shape.size() > few.size()) many.resize(shape.size());
    int64_t* const strides = many.empty() ? few.data() : many.data();
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) {
      strides[i] = stride;
    }
  }

  const int64_t* data() const { return many.empty() ? few.data() : many.data(); }

 private:
  std::array<int64_t, 6> few;
  std::vector<int64_t> many;
};

// An operator of PyTorch's whose first argument, and only result, is a tensor.
template <class... Arguments>
Tensor call(const char* name, const char* overload, const Tensor& first, Arguments... others) {
  StableIValue stack[] = {reinterpret_cast<uintptr_t>(Tensor(first).release()),
                          stable::from(others)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack, TORCH_ABI_VERSION));
  return Tensor(stable::to<AtenTensorHandle>(stack[0]));
}

// Tensors of fewer elements are converted here, by one thread. To have it done takes longer than a step of
// a small layer. PyTorch divides more than 32,768 among OpenMP's threads, for which the call then waits:
// milliseconds where one has lost its core, or sleeps.
constexpr int64_t few_elements = 1 << 13, few_of_bfloat16 = 1 << 20;

void convert(const c10::BFloat16* from, float* to, int64_t count) {
  current_isa().for_float->widen(reinterpret_cast<const Bf16*>(from), to, count);
}
void convert(const float* from, c10::BFloat16* to, int64_t count) {
  current_isa().for_float->narrow(from, reinterpret_cast<Bf16*>(to), count);
}
template <class From, class To>
void convert(const From* from, To* to, int64_t count) {
  std::copy_n(from, count, to);
}

template <class From, class To>
Tensor converted(const Tensor& tensor, Dtype dtype) {
  const Tensor result = empty(tensor.sizes(), dtype);
  convert(static_cast<const From*>(tensor.data()), static_cast<To*>(result.data()), tensor.numel());
  return result;
}

// Undefined where it is not one of these.
Tensor converted_here(const Tensor& tensor, Dtype to) {
  const Dtype from = tensor.dtype();
  const bool of_bfloat16 = from == Dtype::BFloat16 || to == Dtype::BFloat16;
  const int64_t few = of_bfloat16 ? few_of_bfloat16 : few_elements;
  if (!tensor.is_contiguous() || tensor.numel() > few) return Tensor();
  using c10::BFloat16, c10::Half;
  if (from == Dtype::BFloat16 && to == Dtype::Float) return converted<BFloat16, float>(tensor, to);
  if (from == Dtype::Float && to == Dtype::BFloat16) return converted<float, BFloat16>(tensor, to);
  if (from == Dtype::Half && to == Dtype::Float) return converted<Half, float>(tensor, to);
  if (from == Dtype::Float && to == Dtype::Half) return converted<float, Half>(tensor, to);
  return Tensor();
}

struct Code {
  Dtype dtype;
  int32_t code;
};

int32_t cpu() {
  static const int32_t type = aoti_torch_device_type_cpu();
  return type;
}

// The dtypes that the kernels know. The header's way asks LibTorch for one number after another.
const std::array<Code, 6>& known() {
  static const std::array<Code, 6> codes = {{
      {Dtype::Float, aoti_torch_dtype_float32()},
      {Dtype::BFloat16, aoti_torch_dtype_bfloat16()},
      {Dtype::Double, aoti_torch_dtype_float64()},
      {Dtype::Half, aoti_torch_dtype_float16()},
      {Dtype::Long, aoti_torch_dtype_int64()},
      {Dtype::Bool, aoti_torch_dtype_bool()},
  }};
  return codes;
}

}  // namespace

int32_t code_of(Dtype dtype) {
  for (const Code& each : known()) {
    if (each.dtype == dtype) return each.code;
  }
  return stable::to<int32_t>(stable::from(dtype));
}

Dtype dtype_of(int32_t code) {
  for (const Code& each : known()) {
    if (each.code == code) return each.dtype;
  }
  return stable::to<Dtype>(stable::from(code));
}

int64_t bytes_of(Dtype dtype) {
  if (dtype == Dtype::Float) return sizeof(float);
  return aoti_torch_dtype_element_size(code_of(dtype));
}

size_t bytes_of(Dimensions shape, Dtype dtype) {
  size_t bytes = bytes_of(dtype);
  for (int64_t size : shape) bytes *= size;
  return bytes;
}

bool Tensor::is_cpu() const {
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &type));
  return type == cpu();
}

const int64_t* Tensor::strides() const {
  int64_t* strides = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &strides));
  return strides;
}

bool Tensor::is_contiguous() const {
  bool is = false;
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle, &is));
  return is;
}

bool Tensor::is_transposed() const {
  const int64_t* const by = strides();
  return dim() == 3 && by[0] == size(1) * size(2) && by[1] == 1 && by[2] == size(1);
}

Tensor Tensor::contiguous() const {
  if (is_contiguous()) return *this;
  return call("aten::contiguous", "", *this, aoti_torch_memory_format_contiguous_format());
}

Tensor Tensor::to(Dtype dtype) const {
  if (this->dtype() == dtype) return *this;
  Tensor here = converted_here(*this, dtype);
  if (here.defined()) return here;
  return call("aten::to", "dtype", *this, dtype, false, false, std::nullopt);
}

Tensor Tensor::view(Dimensions sizes, const int64_t* strides, int64_t offset) const {
  AtenTensorHandle view = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(handle, sizes.size(), sizes.data(), strides,
                                                        offset, &view));
  return Tensor(view);
}

Tensor Tensor::transposed() const {
  const int64_t* const by = strides();
  const int64_t swapped[] = {by[1], by[0], by[2]};
  return view(SmallShape{{size(1), size(0), size(2)}, 3}, swapped, 0);
}

Tensor Tensor::as_step() const {
  const int64_t* const by = strides();
  const int64_t more[] = {size(0) * by[0], by[0], by[1]};
  return view(SmallShape{{1, size(0), size(1)}, 3}, more, 0);
}

Tensor Tensor::of_step() const {
  return view({known.sizes + 1, static_cast<size_t>(dim() - 1)}, strides() + 1, 0);
}

Tensor Tensor::rows_from(int64_t first) const {
  std::vector<int64_t> shape(sizes().begin(), sizes().end());
  const int64_t offset = first * (numel() / shape[0]);
  shape[0] -= first;
  return view(shape, Strides(shape).data(), offset);
}

Tensor empty(Dimensions shape, Dtype dtype) {
  AtenTensorHandle handle = nullptr;
  const auto error = aoti_torch_empty_strided(shape.size(), shape.data(), Strides(shape).data(),
                                              code_of(dtype), cpu(), -1, &handle);
  if (error != AOTI_TORCH_SUCCESS) out_of_memory(bytes_of(shape, dtype));
  return Tensor(handle);
}

Tensor tensor_of(void* memory, Dimensions shape, Dtype dtype, void (*free)(void*, void*),
                 void* with) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_from_blob(
      memory, shape.size(), shape.data(), Strides(shape).data(), 0, code_of(dtype),
      cpu(), -1, &handle, aoti_torch_layout_strided(), nullptr, 0, free,
      with));
  return Tensor(handle);
}

}  // namespace fused_lstm
