// How a thread waits: some moments awake, then asleep.
#pragma once

#include <atomic>
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
