#include "threads.h"

#include "denormals.h"
#include "futex.h"
#include "refuse.h"

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifdef _OPENMP
extern "C" void __kmpc_fork_call();  // of another OpenMP than GCC's; never called
#endif

namespace fused_lstm {

// Counters on cache lines of their own, so that waiting does not disturb arriving.
struct Barrier {
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<int32_t> phase{0};
  alignas(64) std::atomic<int32_t> sleeping{0};
  int32_t count = 1;
  std::atomic<bool> crowded{false};  // more workers than cores: spinning could block the thread we wait for

  void wait();
  void sleep(int32_t now);
};

namespace {

std::atomic<long> limit{std::numeric_limits<long>::max()};  // of a team's workers

#ifdef _OPENMP
// A thread that works for one other.
class Helper {
 public:
  Helper() { std::thread([this] { serve(); }).detach(); }

  void run(const std::function<void()>& work) {
    task = &work;
    set(true);
    await(false);
  }

 private:
  void serve() {
    while (true) {
      await(true);
      (*task)();
      set(false);
    }
  }

  void set(bool now) {
    busy.store(now);
    wake(busy);
  }

  void await(bool wanted) {
    while (busy.load() != wanted) sleep_while(busy, !wanted);
  }

  const std::function<void()>* task = nullptr;
  std::atomic<int32_t> busy{false};
};

// OpenMP keeps a pool for each thread that asked for one. Its threads do not survive fork(), and the
// thread that does would wait for them for ever, in PyTorch's operators as in these. So a thread that
// forks gives its pool back first; parent and child make their own. Where OpenMP has no such function
// (libgomp before GCC 9), or refuses, a helper asks for a pool, which has none yet.
thread_local bool paused = false;
thread_local bool forked = false;
thread_local Helper* helper = nullptr;

#pragma weak omp_pause_resource_all
#pragma weak __kmpc_fork_call

void pause_pool() {
  const bool survives = __kmpc_fork_call != nullptr;  // LLVM's and Intel's, which make a pool anew
  paused = !survives && omp_pause_resource_all && omp_pause_resource_all(omp_pause_hard) == 0;
}

const int registered = pthread_atfork(pause_pool, nullptr, [] {
  forked = !paused;
  helper = nullptr;  // lost too
});

// The cores that the workers of a team are on.
class Places {
 public:
  void enter(int id) {
    if (id < most) core[id] = sched_getcpu();
  }

  // Two workers on one core stay there, beside a core that is free: each sleeps in turn, and the
  // system sees no reason to move either. So the second moves itself to a core without a worker, and
  // may go where it could before. Returns false where there is none; all must have entered.
  bool are_apart(int id, int count) const {
    if (count > most || std::find(core, core + id, core[id]) == core + id) return true;
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return true;
    cpu_set_t others = mask;
    for (int worker = 0; worker < count; ++worker) CPU_CLR(core[worker], &others);
    if (CPU_COUNT(&others) == 0) return false;
    if (sched_setaffinity(0, sizeof(others), &others) == 0) {
      sched_setaffinity(0, sizeof(mask), &mask);
    }
    return true;
  }

 private:
  static constexpr int most = 256;  // of larger teams nothing is known
  int core[most];
};
#endif

// How long meetings of a caller's teams take, by their workers: cores that share a cache meet in 0.1 us, others
// in 0.5. Measured anew now and then, since the system, or a virtual machine's host, moves threads about.
class Meetings {
 public:
  // Nanoseconds; 0 where they are to be measured.
  long of(long workers) const {
    const Entry& entry = entries_[index_of(workers)];
    return Clock::now() < entry.until ? entry.nanoseconds : 0;
  }

  void keep(long workers, long nanoseconds) {
    entries_[index_of(workers)] = {nanoseconds, Clock::now() + std::chrono::milliseconds(100)};
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    long nanoseconds = 0;
    Clock::time_point until;
  };
  static constexpr long most = 64;  // larger teams share an entry

  static long index_of(long workers) { return std::min(workers, most); }

  Entry entries_[most + 1];
};

thread_local Meetings meetings;

// Measures a meeting of a team: the shortest of some. One that takes long is the last, since a worker has lost
// its core to another process, and is no measure of where the cores are.
class Probe {
 public:
  void run(const Worker& worker) {
    for (int i = 0; i < 4 && !is_over_; ++i) {
      const auto start = std::chrono::steady_clock::now();
      worker.sync();
      worker.sync();
      if (worker.id == 0) {
        const long taken = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count() / 2;
        least_ = std::min(least_, taken);
        is_over_ = taken > too_long;
      }
      worker.sync();  // all know whether it is over
    }
  }

  long nanoseconds() const { return least_ > too_long ? 1 : std::max(least_, 1L); }

 private:
  static constexpr long too_long = 10'000;
  long least_ = std::numeric_limits<long>::max();
  bool is_over_ = false;
};

// Calls body(id) on each thread of torch's pool, of which the caller is 0.
template <class Body>
void on_each_thread(const Body& body) {
#ifdef _OPENMP
  if (!forked && !omp_in_parallel()) {
#pragma omp parallel
    body(omp_get_thread_num());
    return;
  }
#endif
  body(0);
}

// Returns at least how many threads on_each_thread has.
long pool_size() {
#ifdef _OPENMP
  if (!forked && !omp_in_parallel()) return omp_get_max_threads();
#endif
  return 1;
}

}  // namespace

#if defined(__linux__)
std::vector<cpu_set_t> pool_masks() {
#ifdef _OPENMP
  if (omp_get_proc_bind() == omp_proc_bind_false) return {};
#endif
  std::vector<cpu_set_t> masks(pool_size());
  on_each_thread([&](size_t id) { sched_getaffinity(0, sizeof(cpu_set_t), &masks[id]); });
  return masks;
}
#endif

#if defined(__linux__) && defined(_OPENMP)
namespace {

// The second thread of a caller's pool, as far as the caller knows: it waits awake after a region.
class SecondThread {
 public:
  // Whether it has a core now, because of others than the calls that asked.
  bool is_awake_for_others() {
    const auto now = Clock::now();
    if (threads_ != omp_get_max_threads()) {
      find();
      doubt(now);
    }
    // A program that calls these operators and nothing else keeps it awake by itself.
    in_a_row_ = now < ended_ + short_gap ? in_a_row_ + 1 : 0;
    if (for_others_ && in_a_row_ >= 8) doubt(now);
    const bool has_core = threads_ > 1 && runs() && runs();
    for_others_ = has_core && (for_others_ || now > doubted_ + longest_wait);
    return for_others_;
  }

  // Tells it that a call which asked has ended, which the pool ran.
  void end_call() { ended_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds longest_wait{50};
  static constexpr std::chrono::microseconds short_gap{15};

  void find() {
    threads_ = omp_get_max_threads();
    on_each_thread([&](int id) {
      if (id == 1) clock_ = own_clock();
    });
  }

  // The calling thread's CPU clock, as Linux numbers them: pthread_getcpuclockid is another symbol in newer
  // C libraries, which older ones lack.
  static clockid_t own_clock() { return ~static_cast<clockid_t>(syscall(SYS_gettid)) << 3 | 6; }

  void doubt(Clock::time_point now) {
    doubted_ = now;
    for_others_ = false;
  }

  bool runs() {  // since it was last asked: the clock stands still while the thread does
    timespec now;
    if (clock_gettime(clock_, &now) != 0) return false;
    const timespec before = std::exchange(last_, now);
    return now.tv_nsec != before.tv_nsec || now.tv_sec != before.tv_sec;
  }

  int threads_ = 1;  // of the pool, when it was looked for
  clockid_t clock_{};
  timespec last_{};
  Clock::time_point doubted_, ended_;
  int in_a_row_ = 0;
  bool for_others_ = false;
};

thread_local SecondThread second_thread;

}  // namespace
#endif

bool run_where_awake(long most, void (*body)(void*, const Worker&), void* argument) {
#if defined(__linux__) && defined(_OPENMP)
  if (!forked && !omp_in_parallel() && second_thread.is_awake_for_others()) {
    run_team(most, body, argument);
    second_thread.end_call();
    return true;
  }
#endif
  return false;
}

std::vector<int64_t> control_words() {
  std::vector<int64_t> words(pool_size(), control_word());
  on_each_thread([&](size_t id) { words[id] = control_word(); });
  return words;
}

void set_control_words(const std::vector<int64_t>& words) {
  CHECK_VALUE(!words.empty(), "words: got none; expected one for each thread");
  on_each_thread([&](size_t id) { set_control_word(words[std::min(id, words.size() - 1)]); });
}

int64_t flush_bits_of_cpu() { return flush_bits; }

void Barrier::wait() {
  const int32_t now = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    arrived.store(0, std::memory_order_relaxed);
    phase.store(now + 1);  // either this sees a sleeper, or the sleeper sees this
    if (sleeping.load() > 0) wake(phase);
    return;
  }
  // Whoever takes longer has lost its core to another process, or waits for this one: to yield would
  // not do, for it gives whole time slices to processes that never wait.
  if (!crowded && wait_awake([&] { return phase.load(std::memory_order_acquire) != now; })) return;
  if (crowded) std::this_thread::yield();  // the team itself is who is ready to run, most times
  sleep(now);
}

void Barrier::sleep(int32_t now) {
  sleeping.fetch_add(1);
  while (phase.load() == now) sleep_while(phase, now);
  sleeping.fetch_sub(1);
}

void Worker::sync() const {
  if (count > 1 && barrier) barrier->wait();
}

Worker Worker::half() const {
  return {id % (count / 2), count / 2, barrier ? barrier + 1 + side() : nullptr};
}

void limit_team(int64_t workers) { limit = std::max<int64_t>(workers, 1); }

long team_size() {
#ifdef _OPENMP
  if (!omp_in_parallel()) {
    uint32_t count = 1;
    TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&count));
    return std::min<long>(count, limit);
  }
#endif
  return 1;
}

long meeting_time(long workers) { return meetings.of(workers); }

void run_team(long most, void (*body)(void*, const Worker&), void* argument) {
  Barrier barriers[3];  // of the team and of its halves
  // The caller's own word stays until its body begins: a thread that OpenMP starts inherits it.
  const uint64_t word = operator_word();
#ifdef _OPENMP
  const long workers = most > 1 ? std::min(team_size(), most) : 1;
  const bool measures = workers > 1 && meetings.of(workers) == 0;
  Probe probe;
  const auto run = [&] {
    Places places;
    // No num_threads clause: libgomp rebuilds its pool where it varies (see ATen/ParallelOpenMP.h).
#pragma omp parallel
    {
      const int id = omp_get_thread_num();
      const int count = std::min<long>(omp_get_num_threads(), most);
      places.enter(id);
#pragma omp single
      for (Barrier& barrier : barriers) barrier.count = &barrier == barriers ? count : count / 2;
      // an implicit barrier follows
      if (id < count) {
        if (!places.are_apart(id, count)) {
          for (Barrier& barrier : barriers) barrier.crowded = true;
        }
        const FlushScope scope(word);
        const Worker worker{id, count, barriers};
        body(argument, worker);
        if (measures) probe.run(worker);
      }
    }
  };
  if (workers > 1) {
    if (!forked) {
      run();
    } else {
      if (!helper) helper = new Helper;  // never deleted: at exit it may be waiting
      const int count = omp_get_max_threads();
      helper->run([&] {
        omp_set_num_threads(count);
        run();
      });
    }
    if (measures) meetings.keep(workers, probe.nanoseconds());
    return;
  }
#endif
  const FlushScope scope(word);
  body(argument, Worker{0, 1, barriers});
}

}  // namespace fused_lstm
