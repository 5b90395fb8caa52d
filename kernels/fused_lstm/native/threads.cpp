#include "threads.h"

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <limits>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fused_lstm {

// Counters on cache lines of their own, so that waiting does not disturb arriving.
struct Barrier {
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<int32_t> phase{0};
  alignas(64) std::atomic<int32_t> sleeping{0};
  int32_t count = 1;
  bool crowded = false;  // more threads than cores: who is waited for may need the waiter's

  void wait();
  void sleep(int32_t now);
};

namespace {

// OpenMP's threads do not survive fork(), and a child that asked for them would wait for ever.
std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

// Of this thread, and so of its team; a system that does not say is taken to have enough.
long cores() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) return CPU_COUNT(&mask);
#endif
  return std::numeric_limits<long>::max();
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
// Waits until `wake`, or not at all where value is no longer `now`; may also end early.
void sleep_while(std::atomic<int32_t>& value, int32_t now) {
  syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, now, nullptr, nullptr, 0);
}

void wake(std::atomic<int32_t>& value) {
  syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
#else
void sleep_while(std::atomic<int32_t>&, int32_t) { std::this_thread::yield(); }
void wake(std::atomic<int32_t>&) {}
#endif

}  // namespace

void Barrier::wait() {
  const int32_t now = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    arrived.store(0, std::memory_order_relaxed);
    phase.store(now + 1);  // either this sees a sleeper, or the sleeper sees this
    if (sleeping.load() > 0) wake(phase);
    return;
  }
  // Waits as long as to sleep and be woken takes (20 us on a Zen 4), which is longer than most
  // neighbours' tiles. Whoever takes longer has lost its core to another process, or waits for
  // this one: to yield would not do, for it gives whole time slices to processes that never wait.
  constexpr int spins = 1000;
  for (int i = 0; i < spins && !crowded; ++i) {
    if (phase.load(std::memory_order_acquire) != now) return;
    pause();
  }
  if (crowded) std::this_thread::yield();  // the team itself is who is ready to run, most times
  sleep(now);
}

void Barrier::sleep(int32_t now) {
  sleeping.fetch_add(1);
  while (phase.load() == now) sleep_while(phase, now);
  sleeping.fetch_sub(1);
}

void Worker::sync() const {
  if (count > 1) barrier->wait();
}

Worker Worker::half() const { return {id % (count / 2), count / 2, barrier + 1 + side()}; }

long team_size() {
#ifdef _OPENMP
  if (!forked && !omp_in_parallel()) {
    uint32_t count = 1;
    TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&count));
    return count;
  }
#endif
  return 1;
}

void run_team(void (*body)(void*, const Worker&), void* argument) {
  Barrier barriers[3];  // of the team and of its halves
#ifdef _OPENMP
  if (team_size() > 1) {
    // No num_threads clause: libgomp rebuilds its pool where it varies (see ATen/ParallelOpenMP.h).
#pragma omp parallel
    {
#pragma omp single
      {
        const int32_t count = omp_get_num_threads();
        for (Barrier& barrier : barriers) {
          barrier.count = &barrier == barriers ? count : count / 2;
          barrier.crowded = count > cores();
        }
      }  // an implicit barrier follows
      body(argument, Worker{omp_get_thread_num(), barriers[0].count, barriers});
    }
    return;
  }
#endif
  body(argument, Worker{0, 1, barriers});
}

}  // namespace fused_lstm
