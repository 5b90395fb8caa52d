// Denormal numbers as zero, for the time of an operator: a product with one costs a CPU's microcode a
// hundred cycles and more, and a gradient from the last step alone is denormal after some 150 steps.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fused_lstm {

// A thread's control word: MXCSR on x86, FPCR on Arm.
inline uint64_t control_word() {
#if defined(__x86_64__)
  return _mm_getcsr();
#elif defined(__aarch64__)
  uint64_t word;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
#else
  return 0;
#endif
}

inline void set_control_word([[maybe_unused]] uint64_t word) {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<uint32_t>(word));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(word));
#endif
}

#if defined(__x86_64__)
constexpr uint64_t flush_bits = 0x8040;  // flush to zero, denormals are zero
#elif defined(__aarch64__)
constexpr uint64_t flush_bits = 1 << 24;  // FZ, both in one; float16 has a bit of its own
#else
constexpr uint64_t flush_bits = 0;
#endif

// Gives this thread the flush bits of a control word, and its own back at the end of the scope, also
// when an exception leaves it.
class FlushScope {
 public:
  explicit FlushScope(uint64_t bits_of) : before(control_word()) {
    const uint64_t wanted = (before & ~flush_bits) | (bits_of & flush_bits);
    if (wanted != before) set_control_word(wanted);
  }
  ~FlushScope() { set_control_word(before); }
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;

 private:
  const uint64_t before;
};

// FUSED_LSTM_DENORMALS=keep in the environment: operators compute with what the caller's thread has.
inline bool keeps_denormals() {
  static const bool keeps = [] {
    const char* const word = std::getenv("FUSED_LSTM_DENORMALS");
    return word && std::string_view(word) == "keep";
  }();
  return keeps;
}

// The control word that an operator called now computes with.
inline uint64_t operator_word() {
  return keeps_denormals() ? control_word() : control_word() | flush_bits;
}

}  // namespace fused_lstm
