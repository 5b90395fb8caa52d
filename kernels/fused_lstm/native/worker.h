// A thread of the team that one operator runs on: alone, because a cell is compiled with it.
#pragma once

namespace fused_lstm {

struct Barrier;

// One thread of a team. `count` is how many threads there really are, which may be fewer than
// were asked for: work is divided by it, never by a number fixed beforehand.
struct Worker {
  long id = 0;
  long count = 1;
  // Its team's; those of the team's two halves follow it. A part of a phase (phases.h) has none, and
  // waits for nobody.
  Barrier* barrier = nullptr;

  void sync() const;  // waits for the whole team

  // In a team of even number: which half of it this worker is in, and the same worker as one of
  // that half, for work that the halves need not wait for each other in.
  long side() const { return id / (count / 2); }
  Worker half() const;
};

}  // namespace fused_lstm
