// Runs short calls on threads of our own; or on torch's, where those are awake (`run_where_awake`) or a plan
// counts on the time that they have been seen to need for a meeting. A region of OpenMP's ends when each
// thread has reached its end, one too that another process keeps from its core for milliseconds. A thread of
// ours takes a part of the work once it has a core, and the caller takes the rest: a thread without a part is
// not waited for.
#pragma once

#include "threads.h"

namespace fused_lstm {

// Calls below this end about when a sleeping thread has come.
constexpr long worth_a_wake = 60'000;  // nanoseconds

// A call's work: phases one after another, each in parts that may run at once, on any thread. What a
// part gives is the same whoever runs it.
struct Phases {
  long count;
  long parts;        // of each phase
  long nanoseconds;  // about what all of it takes one thread
  bool by_team;      // on torch's threads, awake or not
  void (*run)(void* argument, long phase, const Worker& part);  // a part has no barrier, nor throws
  void* argument;
};

// Denormal numbers are zero there (denormals.h).
void run_phases(const Phases& phases);

}  // namespace fused_lstm
