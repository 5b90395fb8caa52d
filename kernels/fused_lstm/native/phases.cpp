#include "phases.h"

#include "denormals.h"
#include "futex.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace fused_lstm {
namespace {

#if defined(__linux__) && defined(_OPENMP)

constexpr long most_parts = 16;

// Sends this thread off a core, where it may use another, and lets it back at the end. A binding of the
// process, or of this thread, to other cores that is made meanwhile has the last word.
class AvoidCore {
 public:
  explicit AvoidCore(int core) {
    if (!mask_of(0, own_) || !mask_of(getpid(), of_process_)) return;
    others_ = own_;
    CPU_CLR(core, &others_);
    moved_ = CPU_COUNT(&others_) > 0 && !CPU_EQUAL(&own_, &others_) &&
             sched_setaffinity(0, sizeof(others_), &others_) == 0;
  }

  bool moved() const { return moved_; }

  ~AvoidCore() {
    cpu_set_t now, of_process;
    if (moved_ && mask_of(0, now) && CPU_EQUAL(&now, &others_) && mask_of(getpid(), of_process) &&
        CPU_EQUAL(&of_process, &of_process_)) {
      sched_setaffinity(0, sizeof(own_), &own_);
    }
  }

 private:
  static bool mask_of(pid_t thread, cpu_set_t& mask) {
    return sched_getaffinity(thread, sizeof(mask), &mask) == 0;
  }

  cpu_set_t own_, others_, of_process_;
  bool moved_ = false;
};

// The work to take: a call's number, a phase, how many of its parts have ended, and which are taken. One
// word, so that a part is taken of the call and the phase that were seen or not at all.
struct State {
  static constexpr int taken_bits = most_parts, ended_bits = 5, phase_bits = 24;
  static constexpr int ended_at = taken_bits, phase_at = ended_at + ended_bits, call_at = phase_at + phase_bits;
  static constexpr uint64_t one_ended = 1 << ended_at;
  static constexpr uint64_t none = (1 << phase_bits) - 1;  // a phase: the call is over

  uint64_t word;

  static State of(uint64_t call, uint64_t phase) { return {call << call_at | phase << phase_at}; }
  uint64_t call() const { return word >> call_at; }
  uint64_t phase() const { return word >> phase_at & none; }
  uint64_t place() const { return word >> phase_at; }  // both
  long ended() const { return word >> ended_at & ((1 << ended_bits) - 1); }
  uint64_t free(long parts) const { return ~word & ((1u << parts) - 1); }
  State with(long part) const { return {word | 1u << part}; }
};

// The threads of one caller at a time.
class ThreadPool {
 public:
  // Starts threads until there are so many beside the caller, or as many as the system grants.
  void grow(size_t threads) {
    if (threads_ >= threads) return;
    const std::vector<cpu_set_t> masks = pool_masks();
    try {
      for (; threads_ < threads; ++threads_) {
        const size_t index = threads_ + 1;
        const cpu_set_t* const mask = index < masks.size() ? &masks[index] : nullptr;
        std::thread thread([this, index] { serve(index); });
        if (mask) pthread_setaffinity_np(thread.native_handle(), sizeof(*mask), mask);
        thread.detach();
      }
    } catch (const std::system_error&) {
    }
  }

  void run(const Phases& call, uint64_t word) {
    run_.store(call.run, std::memory_order_relaxed);
    argument_.store(call.argument, std::memory_order_relaxed);
    parts_.store(call.parts, std::memory_order_relaxed);
    count_.store(call.count, std::memory_order_relaxed);
    flush_.store(word, std::memory_order_relaxed);
    core_.store(sched_getcpu(), std::memory_order_relaxed);
    const uint64_t number = State{state_.load(std::memory_order_relaxed)}.call() + 1;
    const State first = State::of(number, 0).with(0);
    state_.store(first.word, std::memory_order_release);
    calls_.fetch_add(1);  // as Dekker does with idle_: either this sees the sleeper, or it sees the call
    if (call.nanoseconds >= worth_a_wake && idle_.load() > 0) {
      wake(calls_, static_cast<int>(call.parts - 1));
    }
    run_parts(first, call.parts, 0, 0);
    take_parts(0);
  }

 private:
  void serve(size_t index) {
    int32_t last = 0;
    bool lingers = true;
    while (true) {
      const auto called = [&] { return calls_.load(std::memory_order_acquire) != last; };
      if (!lingers || !wait_awake(called)) {
        // A thread woken on the caller's core would wait for the caller.
        const AvoidCore avoid(core_.load(std::memory_order_relaxed));
        idle_.fetch_add(1);
        while (calls_.load() == last) sleep_while(calls_, last);
        idle_.fetch_sub(1);
      }
      last = calls_.load();
      const int core = core_.load(std::memory_order_relaxed);
      lingers = sched_getcpu() != core || AvoidCore(core).moved();
      if (lingers) take_parts(index);  // on the caller's core it would only take its place
    }
  }

  // Takes parts until the call that is there now is over.
  void take_parts(long index) {
    State now{state_.load(std::memory_order_acquire)};
    const uint64_t call = now.call();
    while (now.call() == call && now.phase() != State::none) {
      // These values may be the next call's: then no part is taken below.
      const long parts = parts_.load(std::memory_order_relaxed);
      const uint64_t free = now.free(parts);
      if (free == 0) {
        await_after(now);
        now.word = state_.load(std::memory_order_acquire);
        continue;
      }
      const long own = index % parts;  // whose weights may still be in this core's cache
      const long part = free >> own & 1 ? own : __builtin_ctzll(free);
      if (!state_.compare_exchange_weak(now.word, now.with(part).word, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      run_parts(now, parts, part, own);
      now.word = state_.load(std::memory_order_acquire);
    }
  }

  // Runs a part that this thread has taken. Who ends the last part of a phase begins the next one, and goes
  // on with its own part of it.
  void run_parts(State now, long parts, long part, long own) {
    const FlushScope scope(flush_.load(std::memory_order_relaxed));
    void (*const run)(void*, long, const Worker&) = run_.load(std::memory_order_relaxed);
    void* const argument = argument_.load(std::memory_order_relaxed);
    const uint64_t count = count_.load(std::memory_order_relaxed);
    uint64_t phase = now.phase();
    while (true) {
      run(argument, static_cast<long>(phase), Worker{part, parts, nullptr});
      const State ended{state_.fetch_add(State::one_ended, std::memory_order_acq_rel)};
      if (ended.ended() + 1 < parts) return;
      if (++phase == count) return publish(State::of(now.call(), State::none));
      part = own;
      publish(State::of(now.call(), phase).with(part));
    }
  }

  void publish(State next) {
    state_.store(next.word);  // either this sees who waits, or that thread sees this
    if (waiting_.load() == 0) return;
    turn_.fetch_add(1);
    wake(turn_);
  }

  // Waits until another phase, or call, is there.
  void await_after(State now) {
    const auto changed = [&] { return State{state_.load()}.place() != now.place(); };
    if (wait_awake(changed)) return;
    waiting_.fetch_add(1);
    for (int32_t turn = turn_.load(); !changed(); turn = turn_.load()) sleep_while(turn_, turn);
    waiting_.fetch_sub(1);
  }

  size_t threads_ = 0;
  alignas(64) std::atomic<uint64_t> state_{State::of(0, State::none).word};
  alignas(64) std::atomic<int32_t> calls_{0};
  std::atomic<int32_t> turn_{0}, idle_{0}, waiting_{0};
  // The call's.
  alignas(64) std::atomic<void (*)(void*, long, const Worker&)> run_{nullptr};
  std::atomic<void*> argument_{nullptr};
  std::atomic<long> parts_{0}, count_{0};
  std::atomic<uint64_t> flush_{0};
  std::atomic<int> core_{-1};
};

// Pools that have no caller now. Never deleted: their threads run until the process ends.
std::vector<ThreadPool*>* free_pools = new std::vector<ThreadPool*>;
std::mutex free_mutex;

// A forked child has none of the threads.
const int registered = pthread_atfork(nullptr, nullptr, [] {
  new (&free_mutex) std::mutex;
  free_pools = new std::vector<ThreadPool*>;
});

ThreadPool* take_pool() {
  const std::lock_guard<std::mutex> lock(free_mutex);
  if (free_pools->empty()) return new ThreadPool;
  ThreadPool* const pool = free_pools->back();
  free_pools->pop_back();
  return pool;
}

void give_back(ThreadPool* pool) {
  const std::lock_guard<std::mutex> lock(free_mutex);
  free_pools->push_back(pool);
}

#endif

void run_alone(const Phases& phases, uint64_t word) {
  const FlushScope scope(word);
  for (long phase = 0; phase < phases.count; ++phase) {
    phases.run(phases.argument, phase, Worker{});
  }
}

}  // namespace

void run_phases(const Phases& phases) {
  const uint64_t word = operator_word();
  if (phases.parts <= 1 || phases.count == 0) return run_alone(phases, word);
  const auto body = [](void* argument, const Worker& worker) {
    const Phases& phases = *static_cast<const Phases*>(argument);
    for (long phase = 0; phase < phases.count; ++phase) {
      for (long part = worker.id; part < phases.parts; part += worker.count) {
        phases.run(phases.argument, phase, Worker{part, phases.parts});
      }
      worker.sync();
    }
  };
  void* const argument = const_cast<Phases*>(&phases);
#if defined(__linux__) && defined(_OPENMP)
  const bool fits = phases.parts <= most_parts && phases.count < static_cast<long>(State::none);
  if (fits && !phases.by_team) {
    if (run_where_awake(phases.parts, body, argument)) return;
    ThreadPool* const pool = take_pool();
    pool->grow(phases.parts - 1);
    pool->run(phases, word);
    return give_back(pool);
  }
#endif
  run_team(phases.parts, body, argument);
}

}  // namespace fused_lstm
