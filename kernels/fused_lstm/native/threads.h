// The threads that one operator runs on, and the barrier where they meet at every time step.
#pragma once

#include <cstdint>

namespace fused_lstm {

struct Barrier;

// One thread of a team. `count` is how many threads there really are, which may be fewer than
// were asked for: work is divided by it, never by a number fixed beforehand.
struct Worker {
  long id = 0;
  long count = 1;
  Barrier* barrier = nullptr;  // its team's; those of the team's two halves follow it

  void sync() const;  // waits for the whole team

  // Of a team of even number: which half of it this worker is in, and the same worker as one of
  // that half, for work that the halves need not wait for each other in.
  long side() const { return id / (count / 2); }
  Worker half() const;
};

// At most this many workers will take part in `run_team`: torch's threads, or fewer.
long team_size();

// Keeps teams to so many workers, whatever torch's threads are: native/__init__.py says why.
void limit_team(int64_t workers);

// Calls body(argument, worker) once on each of at most `most` threads of torch's own pool, which may
// be larger: its others wait for the end. `body` must not throw.
void run_team(long most, void (*body)(void* argument, const Worker& worker), void* argument);

}  // namespace fused_lstm
