// Decides by a core's caches how weights are fetched that are read again at every step.
#pragma once

namespace fused_lstm {

struct Cpu {
  bool intel;
  long l2;  // bytes of a core's L2 cache
};

// Bytes of the panels that are packed for all steps.
struct Fetching {
  long kept;  // what a worker still has in its L2 cache at the next step; more is fetched ahead
  long part;  // of one panel, what a worker reads again for every tile of a step's rows
  long rows;  // fewer read a panel too seldom for fetching ahead to pay
};

// For tiles of so many registers.
Fetching fetching_of(const Cpu& cpu, long registers);

// On this CPU: of fewer than 32 registers, and of 32.
extern const Fetching fetching_here[2];

}  // namespace fused_lstm
