// Chooses the instruction set, once, when the library is loaded.
#include "isa/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string_view>
#include <vector>

#include "refuse.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fused_lstm {

namespace prepared_base {
extern const PreparedSweep float32_sweep, bfloat16_sweep, int8_sweep, int8_weights_sweep;
}  // namespace prepared_base
#if defined(__x86_64__)
namespace prepared_avx2 {
extern const PreparedSweep float32_sweep, bfloat16_sweep, int8_sweep, int8_weights_sweep;
}  // namespace prepared_avx2
namespace prepared_avx512 {
extern const PreparedSweep float32_sweep, bfloat16_sweep, int8_weights_sweep;
}  // namespace prepared_avx512
namespace prepared_bf16 {
extern const PreparedSweep bfloat16_sweep;
}  // namespace prepared_bf16
namespace prepared_vnni {
extern const PreparedSweep int8_sweep;
}  // namespace prepared_vnni
namespace prepared_amx {
extern const PreparedSweep bfloat16_sweep, int8_sweep;
}  // namespace prepared_amx
#endif
namespace base {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace base
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace avx512
namespace avx512_bf16 {
extern const Kernels<Bf16> bf16_kernels;
}  // namespace avx512_bf16
namespace amx {
extern const Kernels<Bf16> bf16_kernels;
}  // namespace amx
namespace amx_1 {
extern const Kernels<float> float_kernels;
}  // namespace amx_1
namespace amx_2 {
extern const Kernels<float> float_kernels;
}  // namespace amx_2
#endif
namespace {

#if defined(__x86_64__)
bool has_fma() { return __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_fma();
}

// Intel's run VDPBF16PS at half the rate of FMA, so that nothing is gained.
bool has_fast_bf16() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd"); }

// The tile unit's registers are a process's only once it has asked for them.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
  constexpr unsigned all = amx_bf16 | amx_tile | amx_int8;
  if ((d & all) != all || !__builtin_cpu_supports("avx512bf16")) return false;
  if (!__builtin_cpu_supports("avx512vnni")) return false;
#if defined(__linux__)
  constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> make_built_in() {
  return {
#if defined(__x86_64__)
      {"amx", has_avx512() && has_amx(), &avx512::float_kernels, &avx512::double_kernels,
       &amx::bf16_kernels, {&amx_1::float_kernels, &amx_2::float_kernels},
       prepared_amx::bfloat16_sweep, prepared_amx::int8_sweep},
      {"avx512_bf16", has_avx512() && has_fast_bf16(), &avx512::float_kernels,
       &avx512::double_kernels, &avx512_bf16::bf16_kernels, {}},
      {"avx512", has_avx512(), &avx512::float_kernels, &avx512::double_kernels, nullptr, {}},
      {"avx2", __builtin_cpu_supports("avx2") && has_fma(), &avx2::float_kernels,
       &avx2::double_kernels, nullptr, {}},
#endif
      {base::float_kernels.name, true, &base::float_kernels, &base::double_kernels, nullptr, {}},
  };
}

// The library's cells, with the functions of an instruction set. Its code runs: the CPU has it.
std::vector<Cell> own_cells(const Isa& isa) {
  std::vector<Cell> cells;
  for (long n = 0; isa.for_float->own_cell(n).name; ++n) {
    const OwnCell own = isa.for_float->own_cell(n);
    Cell cell{own.name, own.shape, {}, {}};
    const auto add = [&](const auto* kernels) {
      if (!kernels) return;
      const long kind = static_cast<long>(kernels->factors);
      const OwnCell of_kind = kernels->own_cell(n);
      cell.functions[kind] = of_kind.functions;
      cell.with_options[kind] = of_kind.with_options;
    };
    add(isa.for_float);
    add(isa.for_double);
    add(isa.for_bf16);
    for (const Kernels<float>* const terms : isa.for_terms) add(terms);
    cells.push_back(cell);
  }
  return cells;
}

const std::vector<Isa>& built_in() {  // best first
  static const std::vector<Isa> table = [] {
    std::vector<Isa> made = make_built_in();
    for (Isa& isa : made) {
      if (isa.supported) isa.cells = own_cells(isa);
    }
    return made;
  }();
  return table;
}

std::atomic<const Isa*> added{nullptr};

// Calls body(isa) for those that this CPU has, best first, until it returns true.
template <class Body>
void for_supported(const Body& body) {
  for (const Isa& isa : built_in()) {
    if (isa.supported && body(isa)) return;
  }
  if (const Isa* const last = added.load()) body(*last);
}

// Whether the kernels for a dtype have the set's own name.
bool has_own(const Isa& isa, Dtype dtype) {
  if (dtype == Dtype::BFloat16) return isa.for_bf16;
  return with_kernels(
      dtype, [&](const auto& kernels) { return std::string(kernels.name) == isa.name; }, isa);
}

const Isa* from_environment() {
  const char* const name = std::getenv("FUSED_LSTM_ISA");
  return &isa_of(name ? name : "");
}

// Any thread may choose while others run.
std::atomic<const Isa*>& chosen() {
  static std::atomic<const Isa*> one{from_environment()};
  return one;
}

}  // namespace

PreparedSweep prepared_sweep(const Isa& isa, Prepared kind, long rows) {
  if (rows >= prepared::unit_rows(kind, std::numeric_limits<long>::max(), false)) {
    if (kind == Prepared::bfloat16 && isa.for_bf16_rows.run) return isa.for_bf16_rows;
    if (kind == Prepared::int8 && isa.for_int8_rows.run) return isa.for_int8_rows;
  }
  const auto of = [&](PreparedSweep float32, PreparedSweep bfloat16, PreparedSweep int8,
                      PreparedSweep int8_weights) {
    switch (kind) {
      case Prepared::float32: return float32;
      case Prepared::bfloat16: return bfloat16;
      case Prepared::int8: return int8;
      default: return int8_weights;
    }
  };
#if defined(__x86_64__)
  static const bool bf16 = has_avx512() && __builtin_cpu_supports("avx512bf16");
  static const bool vnni = has_avx512() && __builtin_cpu_supports("avx512vnni");
  PreparedSweep narrower = prepared_avx2::int8_sweep;  // its cells have vectors of 32 bytes too
  narrower.own_cell = avx2::float_kernels.own_cell;
  const std::string_view name = isa.for_float->name;
  if (name == "avx512") {
    return of(prepared_avx512::float32_sweep,
              bf16 ? prepared_bf16::bfloat16_sweep : prepared_avx512::bfloat16_sweep,
              vnni ? prepared_vnni::int8_sweep : narrower,
              prepared_avx512::int8_weights_sweep);
  }
  if (name == "avx2") {
    return of(prepared_avx2::float32_sweep, prepared_avx2::bfloat16_sweep,
              prepared_avx2::int8_sweep, prepared_avx2::int8_weights_sweep);
  }
#endif
  return of(prepared_base::float32_sweep, prepared_base::bfloat16_sweep, prepared_base::int8_sweep,
            prepared_base::int8_weights_sweep);
}

void add_isa(Isa& isa) {
  isa.cells = own_cells(isa);
  added.store(&isa);
}

const Isa& isa_of(const std::string& name) {
  std::string offer;
  const Isa* match = nullptr;
  for_supported([&](const Isa& isa) {
    offer += std::string(offer.empty() ? "" : ", ") + isa.name;
    if (name.empty() || name == isa.name) match = &isa;
    return match != nullptr;
  });
  CHECK_VALUE(match, "FUSED_LSTM_ISA: got '", name, "'; expected one of ", offer,
              " on this CPU, or unset");
  return *match;
}

std::vector<std::string> isa_names(std::optional<Dtype> dtype) {
  std::vector<std::string> names;
  for_supported([&](const Isa& isa) {
    if (!dtype || has_own(isa, *dtype)) names.emplace_back(isa.name);
    return false;
  });
  return names;
}

const Isa& current_isa() { return *chosen().load(std::memory_order_relaxed); }

// --- cells ---

namespace {

// A cell, for the instruction set with these kernels.
struct AddedCell : Cell {
  std::string own_name;
  const Kernels<float>* kernels;
  InnerProducts inner;
};

constexpr long most_added_cells = 1024;
AddedCell added_cells[most_added_cells];  // an array, since entries are read without a lock
std::atomic<long> added_count{0};

}  // namespace

const Cell* find_cell(const Isa& isa, std::string_view name) {
  for (const Cell& cell : isa.cells) {
    if (name == cell.name) return &cell;
  }
  bool known = false;
  for (long i = added_count.load() - 1; i >= 0; --i) {
    if (name != added_cells[i].name) continue;
    if (added_cells[i].kernels == isa.for_float) return &added_cells[i];
    known = true;
  }
  CHECK_VALUE(!known, "cell: got '", name, "', which is not compiled for ", isa.name,
              "; expected a module made after the instruction set was chosen");
  return nullptr;
}

void add_cell(const std::string& name, const std::vector<int64_t>& tables) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const long index = added_count.load();
  CHECK_VALUE(index < most_added_cells, "add_cell: got '", name, "' after ", index,
              " others; expected no more");
  CHECK_VALUE(!tables.empty(), "add_cell: got no tables; expected one or more");
  const auto table = [](int64_t address) { return *reinterpret_cast<const CompiledCell*>(address); };
  const CompiledCell first = table(tables[0]);
  AddedCell& cell = added_cells[index];
  cell.own_name = name;
  cell.name = cell.own_name.c_str();
  cell.kernels = current_isa().for_float;
  cell.shape = first.shape;
  cell.inner = first.inner;
  if (first.inner.count > 0) cell.shape.inner = &cell.inner;
  for (const int64_t address : tables) {  // each has other kinds of factors
    const CompiledCell compiled = table(address);
    for (long kind = 0; kind < 3; ++kind) {
      if (!compiled.functions[kind].finish) continue;
      cell.functions[kind] = compiled.functions[kind];
      std::copy_n(compiled.inner.functions[kind], InnerProducts::most, cell.inner.functions[kind]);
      std::copy_n(compiled.inner.early_functions[kind], InnerProducts::most_early,
                  cell.inner.early_functions[kind]);
    }
  }
  added_count.store(index + 1);
}

std::string isa_name() { return current_isa().name; }

void use_isa(const std::string& name) { chosen().store(&isa_of(name), std::memory_order_relaxed); }

}  // namespace fused_lstm
