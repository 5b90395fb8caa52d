// What Python calls, through ctypes.
#include <algorithm>
#include <cstring>

#include "machine.h"

using namespace ptx;

extern "C" {

// The names of TABLE's entry `op`, or a null pointer after the last.
const char* ptx_names(int op) { return op < TABLE_SIZE ? TABLE[op].names : nullptr; }

// Python's copies of the structures must have these sizes.
int ptx_size(int structure) {
  const size_t sizes[] = {sizeof(Operand), sizeof(Instruction), sizeof(Launch), sizeof(Result)};
  return static_cast<int>(sizes[structure]);
}

// Findings as lines in `text`: kind, pc, the earlier pc, count, address, words; by tabs.
void ptx_run(const Launch* launch, const Instruction* instructions, int n_instructions,
             const Operand* operands, const u64* constants, int n_constants, u8* memory,
             u8* written, u64 base, u64 size, const u8* parameters, int n_parameters,
             u64* executed, Result* result, char* text, u64 text_size) {
  const Code code{instructions, n_instructions, operands, constants, n_constants};
  Machine machine(*launch, code, {memory, written, base, size}, {parameters, n_parameters},
                  executed);
  try {
    machine.run();
  } catch (const Error& error) {
    machine.result.failed = 1;
    machine.report("error", machine.pc, -1, 0, error.what());
  }
  std::string lines;
  for (const Finding& f : machine.findings)
    lines += f.kind + "\t" + std::to_string(f.pc) + "\t" + std::to_string(f.before_pc) + "\t" +
             std::to_string(f.count) + "\t" + std::to_string(f.address) + "\t" + f.text + "\n";
  const u64 length = std::min<u64>(lines.size(), text_size - 1);
  std::memcpy(text, lines.data(), length);
  text[length] = 0;
  *result = machine.result;
}
}
