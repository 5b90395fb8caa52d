// One launch on the machine: all programs at once, one instruction of one warp after another.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "state.h"

namespace ptx {

struct Code {
  const Instruction* instructions;
  i32 count;
  const Operand* operands;
  const u64* constants;
  i32 n_constants;
};

// Global memory from Python; written: 0 outside of every tensor, 1 not yet written, 2 written.
struct Global {
  u8 *bytes, *written;
  u64 base, size;
};

struct Parameters {
  const u8* bytes;
  i32 size;
};

class Machine {
 public:
  Machine(const Launch& launch, Code code, Global global, Parameters parameters, u64* executed);
  void run();

  // --- findings ---
  void report(const char* kind, i32 pc, i32 before_pc, u64 address, const std::string& text);
  [[noreturn]] void fail(const std::string& what) const;
  static std::string name(const Warp& w);

  // --- operands ---
  const Operand& operand(const Instruction& i, int group, int k = 0) const {
    return code.operands[i.first[group] + k];
  }
  const u32* source_32(const Warp& w, const Operand& o) const {
    return (o.kind == CONSTANT ? constants_32_.data() : w.registers_32) + o.index * LANES;
  }
  const u64* source_64(const Warp& w, const Operand& o) const {
    return (o.kind == CONSTANT ? constants_64_.data() : w.registers_64) + o.index * LANES;
  }
  u32* target_32(Warp& w, const Operand& o) const { return w.registers_32 + o.index * LANES; }
  u64* target_64(Warp& w, const Operand& o) const { return w.registers_64 + o.index * LANES; }
  u32 predicate(const Warp& w, const Operand& o) const;
  void set_predicate(Warp& w, const Operand& o, u32 value, u32 lanes) const;
  u64 read(const Warp& w, const Operand& o, int lane, i32 type) const;
  void write(Warp& w, const Operand& o, int lane, u64 value) const;
  u64 address(const Warp& w, const Operand& o, int lane) const;

  // --- clocks ---
  void join(u32* into, const u32* other) const;
  void tick(Warp& w) { w.clocks[w.global_id]++; }
  void publish(u64 word, const u32* clocks);  // a release's, or a fence's before it
  void release(u64 word, const u32* clocks);  // and all stores before it become visible
  void acquire(Warp& w, u64 word);
  void note_relaxed_load(Warp& w, u64 word);
  void fence(Warp& w);

  // --- global memory ---
  void check_global(const Warp& w, u64 address, int bytes, const char* what) const;
  void check_written(const Warp& w, u64 address, int bytes);
  void note_global_read(Warp& w, u64 address, int bytes, bool strong);
  void note_global_write(Warp& w, u64 address, int bytes, bool strong, bool same_value);
  void load_global(Warp& w, u64 address, int bytes, u8* out, bool bypass);
  void store_global(Warp& w, u64 address, int bytes, const u8* in, bool strong);
  u8* global_at(u64 address) { return global.bytes + (address - global.base); }
  void drain(Cta& c, u64 cell);
  void drain_before(const u32* clocks);
  bool drain_all();
  void wake(u64 address);

  // --- shared memory ---
  u64 shared_offset(const Warp& w, u64 address, int bytes, const char* what) const;
  void note_shared_read(Warp& w, u64 offset, int bytes, bool async_proxy = false);
  void note_shared_write(Warp& w, u64 offset, int bytes, bool same_value = false);

  // --- lanes, warps, barriers ---
  void make_runnable(Warp& w);
  void make_idle(Warp& w);
  void merge(Warp& w, size_t group);  // which has just moved, with another at the same place
  void try_barrier(Cta& c, i32 id);
  void sleep(Warp& w, Group& g, u64 address, i32 next);

  // --- asynchronous work ---
  void finish(Warp& w, Copy& copy);
  void finish(Warp& w, Product& product);
  void finish_some(Warp& w);

  const Launch& launch;
  const Code code;
  const Global global;
  const Parameters parameters;
  u64* const executed;  // [code.count]
  Random random;
  Result result{};
  std::vector<Cta> ctas;
  std::vector<Warp> warps;
  std::vector<Finding> findings;
  std::unordered_map<u64, std::vector<u32>> released;  // by word: clocks that its acquire joins
  bool has_wgmma = false;
  i32 pc = 0;  // of the instruction that runs, or that issued what runs now

 private:
  void set_up();
  void set_up(Warp& w, Cta& c, i32 id, i32 global_id);
  void slow_some_down();
  Warp& draw();
  void step(Warp& w);
  bool pick_group(Warp& w, size_t& group);
  bool ready(Warp& w, const Instruction& i, size_t& group);
  void check_products_in_flight(Warp& w, const Instruction& i);
  [[noreturn]] void deadlock() const;
  void race(std::string kind, const Warp& w, i32 other, i32 other_pc, u64 address, bool shared);
  void check_readers(Warp& w, GlobalCell& cell, u64 at, bool strong);

  std::vector<u32> constants_32_, registers_32_, predicates_, clocks_;
  std::vector<u64> constants_64_, registers_64_;
  std::vector<i32> runnable_;
  std::vector<GlobalCell> cells_;
  std::vector<std::vector<GlobalReader>> readers_;
  std::unordered_multimap<u64, std::pair<i32, i32>> sleepers_;  // word -> (warp, pc)
  std::map<std::tuple<std::string, i32, i32>, size_t> finding_index_;
};

// One instruction of one group of lanes.
struct Step {
  Machine& m;
  Warp& w;
  const Instruction& i;
  u32 lanes;  // that execute it
  size_t group;
  i32 next;            // where the group goes on
  bool placed = false;  // the instruction has moved the groups itself

  Group& own() { return w.groups[group]; }
  const Operand& operand(int group_of, int k = 0) const { return m.operand(i, group_of, k); }
};

using Execute = void (*)(Step&);

struct Entry {
  const char* names;  // PTX's, with all that is not a modifier
  Execute execute;
};

extern const Entry TABLE[];
extern const int TABLE_SIZE;

}  // namespace ptx
