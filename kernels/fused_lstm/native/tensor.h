// A tensor as LibTorch's stable ABI has it. That is C functions, which are called here, in
// tensor.cpp, boxed.h, door.cpp and threads.cpp, and nowhere else.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <cstdint>
#include <utility>

namespace fused_lstm {

using Dtype = torch::headeronly::ScalarType;
using Dimensions = torch::headeronly::IntHeaderOnlyArrayRef;  // somebody else's memory

// Dimensions of its own.
struct SmallShape {
  std::array<int64_t, 4> sizes;
  size_t count;

  operator Dimensions() const { return {sizes.data(), count}; }
};

// LibTorch's number for a dtype, which may not be the header's.
int32_t code_of(Dtype dtype);
Dtype dtype_of(int32_t code);

// A handle and its one owner, and what is known of the tensor, asked for once: each question is a
// call into LibTorch. Without a handle it is undefined. A copy is another handle of the tensor.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle own) : handle(own) {
    int32_t code = 0;
    int64_t* sizes = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &code));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &sizes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &known.dimensions));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &known.memory));
    known.sizes = sizes;
    known.dtype = dtype_of(code);
  }
  Tensor(const Tensor& other) : known(other.known) {
    if (other.handle) TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(other.handle, &handle));
  }
  Tensor(Tensor&& other) noexcept : handle(other.release()), known(other.known) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(handle, other.handle);
    known = other.known;
    return *this;
  }
  ~Tensor() {
    if (handle) aoti_torch_delete_tensor_object(handle);
  }

  AtenTensorHandle get() const { return handle; }
  AtenTensorHandle release() { return std::exchange(handle, nullptr); }
  bool defined() const { return handle; }
  Dimensions sizes() const { return {known.sizes, static_cast<size_t>(known.dimensions)}; }
  int64_t dim() const { return known.dimensions; }
  int64_t size(size_t index) const { return known.sizes[index]; }
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t size : sizes()) count *= size;
    return count;
  }
  Dtype dtype() const { return known.dtype; }
  void* data() const { return known.memory; }

  const int64_t* strides() const;
  bool is_cpu() const;
  bool is_contiguous() const;

  // Whether it is a contiguous tensor [N, A, B] seen as [N, B, A].
  bool is_transposed() const;

  // Itself, where it is so already.
  Tensor contiguous() const;
  Tensor to(Dtype dtype) const;

  // In its memory: a tensor [N, A, B] as [A, N, B]; [A, B] as [1, A, B], and back.
  Tensor transposed() const;
  Tensor as_step() const;
  Tensor of_step() const;

  // Its rows from one on, in its memory; of a contiguous tensor.
  Tensor rows_from(int64_t first) const;

 private:
  struct Known {
    const int64_t* sizes = nullptr;
    int64_t dimensions = 0;
    void* memory = nullptr;
    Dtype dtype = Dtype::Undefined;
  };

  Tensor view(Dimensions sizes, const int64_t* strides, int64_t offset) const;

  AtenTensorHandle handle = nullptr;
  Known known;
};

int64_t bytes_of(Dtype dtype);  // of an element
size_t bytes_of(Dimensions shape, Dtype dtype);

// torch.empty on the CPU.
Tensor empty(Dimensions shape, Dtype dtype);

// A tensor of memory that `free(memory, with)` is called with when nobody needs it any more.
Tensor tensor_of(void* memory, Dimensions shape, Dtype dtype, void (*free)(void*, void*),
                 void* with);

}  // namespace fused_lstm
