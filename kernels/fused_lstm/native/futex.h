// How a thread waits: some moments awake, then asleep.
#pragma once

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fused_lstm {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a thread waits awake: three times what it takes to be woken (50 us on a Xeon with AMX under
// KVM), so that it still is where calls follow one another. A step of H = 256 then takes two threads
// 0.19 ms; it took 0.27 where they waited for 50 us. Beside busy processes a longer wait is no better.
// At a barrier a shorter one does not end: who was woken comes when the other has just gone to sleep,
// in every step (48 steps of a GRU, 10 ms after the call before: 6.3 ms for 0.3).
constexpr std::chrono::microseconds patience{150};

// Returns whether done() came true meanwhile.
template <class Done>
bool wait_awake(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 8; ++i) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

#if defined(__linux__)
// Waits until `wake`, or not at all where value is no longer `now`; may also end early.
inline void sleep_while(std::atomic<int32_t>& value, int32_t now) {
  syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, now, nullptr, nullptr, 0);
}

inline void wake(std::atomic<int32_t>& value, int most = INT_MAX) {
  syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, most, nullptr, nullptr, 0);
}
#else
inline void sleep_while(std::atomic<int32_t>&, int32_t) { std::this_thread::yield(); }
inline void wake(std::atomic<int32_t>&, int = INT_MAX) {}
#endif

}  // namespace fused_lstm
