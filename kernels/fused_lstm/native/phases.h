// Short calls, on threads of their own, but where torch's are awake (`run_where_awake`). OpenMP's region
// ends when all of its threads have been there, also one that has lost its core to another process for
// milliseconds. Here a thread takes a part of the work when it has a core, and the caller takes what is
// left: nobody waits for a thread that has no part.
#pragma once

#include "threads.h"

namespace fused_lstm {

// A call's work: phases one after another, each in parts that may run at once, on any thread. What a
// part gives is the same whoever runs it.
struct Phases {
  long count;
  long parts;        // of each phase
  long nanoseconds;  // about what all of it takes one thread
  void (*run)(void* argument, long phase, const Worker& part);  // a part has no barrier, nor throws
  void* argument;
};

// Denormal numbers are zero there (denormals.h).
void run_phases(const Phases& phases);

}  // namespace fused_lstm
