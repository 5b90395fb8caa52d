// What Python hands over: a decoded kernel, a launch, a schedule; and what it gets back.
// tests/ptx/binding.py has the same structures.
#pragma once

#include "types.h"

namespace ptx {

enum Kind : i32 { REGISTER_32, REGISTER_64, PREDICATE, CONSTANT, MEMORY, LABEL, NOTHING };

enum Type : i32 {
  U8, S8, B8, U16, S16, B16, F16, BF16, U32, S32, B32, F32, U64, S64, B64, F64, PRED, TF32
};

enum Space : i32 { GLOBAL, SHARED, PARAM, LOCAL };
enum Scope : i32 { CTA, CLUSTER, GPU, SYSTEM };
enum Semantics : i32 { BYPASS_L1 = 1, STRONG = 2, ACQUIRE = 4, RELEASE = 8 };

struct Operand {
  i32 kind;
  i32 base;     // MEMORY: the kind of its register, or NOTHING
  i32 index;    // of a register or constant; LABEL: the instruction
  i32 negated;  // !p
  i64 value;    // MEMORY: the offset
};

// An operand in braces is a group of several.
struct Instruction {
  i32 op;                    // in TABLE
  i32 guard, guard_negated;  // @p or @!p; -1: none
  i32 aligned;               // all lanes of a warp must execute it together
  i32 groups;
  i32 modifier[8];  // what the name says besides; each instruction's code lists its own
  i32 first[12], size[12];
};

struct Launch {
  u64 seed, max_instructions;
  i32 grid[3], warps;
  i32 shared_bytes, shared_base, local_bytes;
  i32 registers_32, registers_64, predicates;
  // The schedule; "ppm" is a chance in a million.
  i32 burst;        // mean instructions that a warp runs on once it is drawn
  i32 split_ppm;    // a group of lanes is split before an instruction
  i32 other_ppm;    // another group of lanes runs than the one that is furthest behind
  i32 slow;         // some programs or warps are slow for a while
  i32 l1, evict_ppm;     // an L1 a program that keeps old lines, until they are evicted
  i32 delay, drain_ppm;  // plain global stores become visible late
  i32 lazy;         // asynchronous work happens at once (0), at some time (1), when waited for (2)
  i32 races;        // none (0), in global memory (1), in shared memory too (2)
  i32 max_findings;
};

struct Result {
  u64 instructions, stale_loads, polls, sleeps, splits, delayed_stores, barriers, products;
  double seconds;  // of a CPU
  i32 failed;
};

// The special registers come first among the 32-bit ones.
enum Special : i32 {
  TID_X, TID_Y, TID_Z, CTAID_X, CTAID_Y, CTAID_Z, NTID_X, NTID_Y, NTID_Z,
  NCTAID_X, NCTAID_Y, NCTAID_Z, LANEID, WARPID, SPECIAL_REGISTERS
};

}  // namespace ptx
