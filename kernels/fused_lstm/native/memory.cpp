#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <list>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_lstm {
namespace {

constexpr size_t page = 2 << 20;        // a huge one
constexpr size_t least_kept = 1 << 15;  // what is smaller, the system's allocator keeps itself
constexpr size_t most_kept = size_t{512} << 20;

struct Block {
  void* memory;
  size_t bytes;
};

struct Pool {
  std::mutex mutex;
  std::list<Block> blocks;  // the longest unused first
  size_t bytes = 0;
};

// Never destroyed: a tensor may outlive every static object.
Pool& pool() {
  static Pool* const one = new Pool;
  return *one;
}

void* take(size_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(pool().mutex);
    std::list<Block>& blocks = pool().blocks;
    // The last that was freed, since most of it is still in cache.
    const auto found = std::find_if(blocks.rbegin(), blocks.rend(),
                                    [&](const Block& block) { return block.bytes == bytes; });
    if (found != blocks.rend()) {
      void* const memory = found->memory;
      pool().bytes -= bytes;
      blocks.erase(std::next(found).base());
      return memory;
    }
  }
  void* memory = nullptr;
  const bool large = bytes >= page;
  if (posix_memalign(&memory, large ? page : 64, bytes) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
  if (large) madvise(memory, bytes / page * page, MADV_HUGEPAGE);
#endif
  return memory;
}

void shrink(size_t most) {  // with the mutex held
  while (pool().bytes > most) {
    std::free(pool().blocks.front().memory);
    pool().bytes -= pool().blocks.front().bytes;
    pool().blocks.pop_front();
  }
}

void give(void* memory, size_t bytes) {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  pool().blocks.push_back({memory, bytes});
  pool().bytes += bytes;
  shrink(most_kept);
}

}  // namespace

at::Tensor fresh(at::IntArrayRef shape, const at::TensorOptions& options) {
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
  void* const memory = bytes >= least_kept ? take(bytes) : nullptr;
  if (memory == nullptr) return at::empty(shape, options);
  const at::Tensor tensor =
      at::from_blob(memory, shape, [bytes](void* freed) { give(freed, bytes); }, options);
  const at::Context& context = at::globalContext();  // as at::empty does, for tests
  if (context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory()) {
    tensor.fill_(std::numeric_limits<double>::quiet_NaN());
  }
  return tensor;
}

void release_memory() {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  shrink(0);
}

}  // namespace fused_lstm
