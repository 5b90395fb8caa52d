// Errors. LibTorch's stable ABI carries a RuntimeError and no other: the first word of the message
// says which of Python's it is, and kernels/fused_lstm/errors.py raises that one.
#pragma once

#include <cstddef>
#include <sstream>
#include <stdexcept>

namespace fused_lstm {

template <class... Parts>
[[noreturn]] void refuse(const char* kind, const Parts&... parts) {
  std::ostringstream message;
  message << kind << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

[[noreturn]] inline void out_of_memory(size_t bytes) {
  refuse("OutOfMemoryError", "native tried to allocate ", bytes, " bytes: the system has no more");
}

}  // namespace fused_lstm

// The message's parts are computed only where it is needed.
#define CHECK_VALUE(condition, ...) \
  if (!(condition)) ::fused_lstm::refuse("ValueError", __VA_ARGS__)
#define CHECK_INDEX(condition, ...) \
  if (!(condition)) ::fused_lstm::refuse("IndexError", __VA_ARGS__)
