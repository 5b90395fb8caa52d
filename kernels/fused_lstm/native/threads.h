// The threads that one operator runs on, and the barrier where they meet at every time step.
#pragma once

#include <cstdint>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "worker.h"

namespace fused_lstm {

// At most this many workers will take part in `run_team`: torch's threads, or fewer.
long team_size();

// Keeps teams to so many workers, whatever torch's threads are: native/__init__.py says why.
void limit_team(int64_t workers);

// Calls body(argument, worker) once on each of at most `most` threads of torch's own pool, which may
// be larger: its others wait for the end. Denormal numbers are zero there (denormals.h). `body` must
// not throw.
void run_team(long most, void (*body)(void* argument, const Worker& worker), void* argument);

// About how long a meeting of so many workers takes, in nanoseconds, as a team of this thread has measured it
// lately; 0 where none has. The next team does, when it has done its work.
long meeting_time(long workers);

// Runs a team likewise if another thread of torch's pool is awake: it works, or spins, as OpenMP's do for some
// time after each operator of PyTorch's that they shared (libgomp's for 16 ms on a Xeon). A thread that is
// none of theirs would get half of that core. Returns whether it ran; to ask takes a microsecond.
bool run_where_awake(long most, void (*body)(void* argument, const Worker& worker), void* argument);

#if defined(__linux__)
// The cores that each thread of torch's pool may use, the caller's first, where they are bound; else
// none.
std::vector<cpu_set_t> pool_masks();
#endif

// The control words of the threads of torch's pool, the caller's first: see denormals.h. In a forked
// child, which has no such threads, and in a thread of the pool, the caller's alone.
std::vector<int64_t> control_words();
void set_control_words(const std::vector<int64_t>& words);  // a thread past their end gets the last

// The bits of a control word that make denormal numbers zero.
int64_t flush_bits_of_cpu();

}  // namespace fused_lstm
