#include "team.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fused_lstm {

// Two counters on cache lines of their own, so that waiting does not disturb arriving.
struct Barrier {
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<int32_t> phase{0};
  int32_t count = 1;

  void wait();
};

namespace {

// OpenMP's threads do not survive fork(), and a child that asked for them would wait for ever.
std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Barrier::wait() {
  const int32_t now = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    arrived.store(0, std::memory_order_relaxed);
    phase.store(now + 1, std::memory_order_release);
    return;
  }
  // Long enough for a neighbour's tile; then its core may be ours, so let it run.
  constexpr int spins = 4000;
  for (int i = 0; phase.load(std::memory_order_acquire) == now; ++i) {
    if (i < spins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Worker::sync() const {
  if (count > 1) barrier->wait();
}

long team_size() {
#ifdef _OPENMP
  if (!forked && !at::in_parallel_region()) return at::get_num_threads();
#endif
  return 1;
}

void run_team(void (*body)(void*, const Worker&), void* argument) {
  Barrier barrier;
#ifdef _OPENMP
  if (team_size() > 1) {
    // No num_threads clause: libgomp rebuilds its pool where it varies (see ATen/ParallelOpenMP.h).
#pragma omp parallel
    {
#pragma omp single
      barrier.count = omp_get_num_threads();  // an implicit barrier follows
      at::internal::ThreadIdGuard guard(omp_get_thread_num());
      body(argument, Worker{omp_get_thread_num(), barrier.count, &barrier});
    }
    return;
  }
#endif
  body(argument, Worker{0, 1, &barrier});
}

}  // namespace fused_lstm
