// Warps and programs (CTAs) of a launch, and the notes that memory cells keep for finding races.
// A cell is 2 bytes of global memory and one of shared, where warps store bytes side by side.
// A clock is one warp's count of its releases and barriers.
#pragma once

#include <array>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "program.h"

namespace ptx {

constexpr int LINE = 128;  // bytes of an L1 line

enum class State : u8 { RUNS, WAITS_FOR_LANES, AT_BARRIER, SLEEPS };

// The last strong load of a group: the same again, with nothing done in between, is a poll.
struct Poll {
  i32 pc = -1;
  u64 address = 0, value = 0, effects = 0;
};

// Lanes of a warp that execute together.
struct Group {
  i32 pc;
  u32 lanes;
  State state = State::RUNS;
  Poll poll = {};
};

// A wgmma in flight. `batch` is its commit group, -1 before the commit.
struct Product {
  const Instruction* instruction;
  u64 a, b;  // matrix descriptors
  bool accumulate;
  bool done = false;
  i32 batch = -1;
};

// A cp.async of a warp in flight.
struct Copy {
  i32 pc;
  u32 lanes;
  i32 size;
  bool bypass;
  u32 to[LANES] = {};
  u64 from[LANES] = {};
  i32 bytes[LANES] = {};  // that are read; the rest is filled with zeros
  bool done = false;
  i32 batch = -1;
};

struct Cta;

struct Warp {
  Cta* cta;
  i32 id, global_id;
  u32* registers_32;
  u64* registers_64;
  u32* predicates;
  u32 live = ALL_LANES;
  std::vector<Group> groups;
  i32 run_index = -1;  // in Machine::runnable_
  u32 weight = 1000;   // of 1000: how often it runs once it is drawn
  u64 count = 0;       // instructions
  u64 effects = 0;     // stores, atomics and barriers: a poll has none in between

  u32* clocks;                                // [warps of the launch]
  u32 shared_clocks[LANES] = {};              // of this program's warps; only barriers advance them
  std::vector<u32> fenced, seen_by_relaxed;   // clocks at the last fence; of relaxed loads since

  std::vector<Product> products;
  i32 product_batch = 0;
  std::vector<u64> written_at;  // count at each 32-bit register's last write, where wgmma occurs
  u64 wgmma_fence_at = 0;
  bool wgmma_fenced = false;  // since the last wgmma.wait_group
  u64 products_issued = 0;
  u32 proxy_fences = 0;
  bool proxy_fence_since_barrier = false;

  std::vector<Copy> copies;
  i32 copy_batch = 0;

  std::vector<u8> local, local_written;  // [LANES * local_bytes]
};

struct SharedCell {
  u32 write_clock = 0, read_clock = 0, readers = 0;  // readers: a bit a warp
  u32 proxy_fences = 0;                              // of the writer, at the write
  u16 write_pc = 0, read_pc = 0;
  u8 writer = 0;
};

struct Cta {
  i32 id, x, y, z;
  std::vector<u8> shared, shared_written;
  std::vector<SharedCell> cells;
  std::vector<Warp*> warps;

  struct Barrier {
    u32 arrived = 0;
    i32 wanted = 0;  // warps; 0: all that live
  } barriers[16];

  std::unordered_map<u64, std::array<u8, LINE>> l1;
  struct DelayedStore {
    u16 value, warp;
    u32 clock;
    i32 index;  // in delayed_cells
  };
  std::unordered_map<u64, DelayedStore> delayed;  // by cell
  std::vector<u64> delayed_cells;
  std::map<std::pair<i32, u64>, std::pair<u64, u64>> issued;  // (warp group, n) -> wgmma
};

struct GlobalReader {
  u32 clock;
  u16 warp, pc;
  bool strong;
};

// The last write and the first reader since; `others`: where there are more, an index.
struct GlobalCell {
  u32 write_clock = 0, read_clock = 0;
  u16 writer = 0, reader = 0, write_pc = 0, read_pc = 0;
  i32 others = -1;
  bool strong_write = false, strong_read = false;
};

struct Finding {
  std::string kind;
  i32 pc, before_pc;
  u64 count, address;
  std::string text;
};

}  // namespace ptx
