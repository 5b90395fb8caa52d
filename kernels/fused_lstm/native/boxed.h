// An operator as LibTorch calls it: arguments and results as 64-bit words, each tensor and string a
// handle that becomes the callee's, and the caller's again.
#pragma once

#include <torch/csrc/stable/library.h>

#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor.h"

namespace fused_lstm {

namespace stable = torch::stable::detail;

template <class T>
struct BoxedValue {
  static T read(StableIValue word) {
    if constexpr (std::is_arithmetic_v<T> || std::is_pointer_v<T>) {  // as it lies in memory
      static_assert(std::endian::native == std::endian::little);
      T value;
      std::memcpy(&value, &word, sizeof(value));
      return value;
    } else {
      return stable::to<T>(word);
    }
  }
  static StableIValue write(const T& value) { return stable::from(value); }
};

template <>
struct BoxedValue<Tensor> {
  static Tensor read(StableIValue word) { return Tensor(BoxedValue<AtenTensorHandle>::read(word)); }
  static StableIValue write(Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.release());
  }
};

template <>
struct BoxedValue<std::optional<Tensor>> {
  static std::optional<Tensor> read(StableIValue word) {
    if (word == 0) return std::nullopt;
    return Tensor(*stable::to<std::optional<AtenTensorHandle>>(word));
  }
};

template <>
struct BoxedValue<std::vector<Tensor>> {
  static std::vector<Tensor> read(StableIValue word) {
    const auto handles = stable::to<std::vector<AtenTensorHandle>>(word);
    return std::vector<Tensor>(handles.begin(), handles.end());
  }
  static StableIValue write(std::vector<Tensor>& tensors) {
    std::vector<AtenTensorHandle> handles;
    handles.reserve(tensors.size());
    for (Tensor& tensor : tensors) handles.push_back(tensor.release());
    return stable::from(handles);
  }
};

template <class T>
void write_results(StableIValue* words, T& result) {
  *words = BoxedValue<T>::write(result);
}

template <class... T>
void write_results(StableIValue* words, std::tuple<T...>& results) {
  std::apply([&](T&... each) { ((*words++ = BoxedValue<T>::write(each)), ...); }, results);
}

template <auto function>
struct Boxed;

template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Boxed<function> {
  static void call(StableIValue* words, uint64_t, uint64_t) {
    auto arguments = read(words, std::index_sequence_for<Arguments...>());
    if constexpr (std::is_void_v<Result>) {
      std::apply(function, std::move(arguments));
    } else {
      Result result = std::apply(function, std::move(arguments));
      write_results(words, result);
    }
  }

  template <size_t... index>
  static auto read(const StableIValue* words, std::index_sequence<index...>) {
    return std::tuple<std::decay_t<Arguments>...>(
        BoxedValue<std::decay_t<Arguments>>::read(words[index])...);
  }
};

}  // namespace fused_lstm
