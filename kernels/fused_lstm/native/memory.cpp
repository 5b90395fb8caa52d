#include "memory.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <mutex>

#include "refuse.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes)
#endif

namespace fused_lstm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t huge_page = 2 << 20;
constexpr size_t least_kept = 1 << 15;  // what is smaller, the system's allocator keeps itself
constexpr size_t most_kept = size_t{512} << 20;
// Mapping most_kept anew takes some 50 ms, a hundredth of this.
constexpr auto longest_unused = std::chrono::seconds(5);
// Scratch of one phase of a training step is kept through the others: a seventh, of the language
// model's. With calls of many shapes this is what bounds the whole.
constexpr size_t most_held(size_t needed) { return needed + needed / 2; }

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  Clock::time_point freed{};
};

// --- the system's memory ---

bool is_large(size_t bytes) { return bytes >= huge_page; }

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t guard = 64;  // so that every block ends in bytes that nobody may touch
#else
constexpr size_t guard = 0;
#endif

size_t block_bytes(size_t bytes) {
  const size_t unit = is_large(bytes) ? 4096 : 64;
  return (bytes + guard + unit - 1) / unit * unit;
}

#if defined(_WIN32)
// The C runtime aligns both sizes; what it takes from the system it gives back.
void* allocate_aligned(size_t bytes) { return _aligned_malloc(bytes, is_large(bytes) ? 4096 : 64); }
void free_aligned(const Block& block) { _aligned_free(block.memory); }
#else
// Straight from the system and on the border of a huge page. malloc would take it from a heap whose
// borders waste as much again, and which keeps what is freed.
void* map_large(size_t bytes) {
  const size_t more = bytes + huge_page;
  void* const found =
      mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(found);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % huge_page;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, more - before - bytes);
#if defined(MADV_HUGEPAGE)
  madvise(begin + before, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return begin + before;
}

void* allocate_aligned(size_t bytes) {
  if (is_large(bytes)) return map_large(bytes);
  void* memory = nullptr;
  return posix_memalign(&memory, 64, bytes) == 0 ? memory : nullptr;
}

void free_aligned(const Block& block) {
  if (is_large(block.bytes)) {
    munmap(block.memory, block.bytes);
  } else {
    std::free(block.memory);
  }
}
#endif

Block allocate(size_t bytes) { return {allocate_aligned(bytes), bytes}; }

void free_all(const std::list<Block>& blocks) {
  for (const Block& block : blocks) {
    ASAN_UNPOISON_MEMORY_REGION(block.memory, block.bytes);
    free_aligned(block);
  }
}

// --- what is kept of it ---

class Pool {
 public:
  // A block of at least `bytes`, or an error that says how many there were not.
  Block take(size_t bytes) {
    Block block;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      block = find(bytes);
      used += block.memory ? block.bytes : bytes;
      needed = std::max(needed, used);
    }
    if (block.memory) return block;
    block = allocate(bytes);
    if (!block.memory && release() > 0) block = allocate(bytes);
    if (!block.memory) {
      const std::lock_guard<std::mutex> lock(mutex);
      used -= bytes;
      out_of_memory(bytes);
    }
    return block;
  }

  void give(Block block) {
    std::list<Block> surplus;  // freed when the lock is: the system takes its time
    {
      const std::lock_guard<std::mutex> lock(mutex);
      block.freed = Clock::now();
      used -= block.bytes;
      kept += block.bytes;
      by_size.emplace(block.bytes, blocks.insert(blocks.end(), block));
      const size_t most = std::min(most_kept, most_held(needed) - used);
      const auto surplus_in_front = [&] {
        return kept > most || block.freed - blocks.front().freed > longest_unused;
      };
      while (!blocks.empty() && surplus_in_front()) {
        remove(by_size.lower_bound(blocks.front().bytes), surplus);
      }
    }
    free_all(surplus);
  }

  size_t release() {
    std::list<Block> all;
    size_t bytes = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      all.swap(blocks);
      by_size.clear();
      std::swap(bytes, kept);
      needed = used;
    }
    free_all(all);
    return bytes;
  }

  std::mutex mutex;

 private:
  using Blocks = std::list<Block>;
  using BySize = std::multimap<size_t, Blocks::iterator>;

  // The smallest that will do, and of those the last that was freed: most of it is still in cache.
  Block find(size_t bytes) {
    const auto fit = by_size.lower_bound(bytes);
    if (fit == by_size.end() || fit->first > bytes + bytes / 4) return {};
    Blocks found;
    remove(std::prev(by_size.upper_bound(fit->first)), found);
    return found.front();
  }

  void remove(BySize::iterator entry, Blocks& to) {
    kept -= entry->first;
    to.splice(to.end(), blocks, entry->second);
    by_size.erase(entry);
  }

  Blocks blocks;    // kept, the longest unused first
  BySize by_size;   // the same; of equal size, the longest unused first
  size_t kept = 0, used = 0, needed = 0;  // bytes; `needed`: the most that were used at once
};

// Never destroyed: a tensor may outlive every static object.
Pool& pool() {
  static Pool* const one = [] {
#if !defined(_WIN32)
    // A child forked while another thread holds the mutex would wait for it for ever.
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                   [] { pool().mutex.unlock(); });
#endif
    return new Pool;
  }();
  return *one;
}

std::atomic<bool> keeps{true}, poisons{false};

// A tensor's memory comes back with the size of its block.
void give(void* memory, void* bytes) {
  const size_t size = reinterpret_cast<size_t>(bytes);
  ASAN_POISON_MEMORY_REGION(memory, size);
  pool().give({memory, size});
}

}  // namespace

Tensor fresh(Dimensions shape, Dtype dtype) {
  const size_t bytes = bytes_of(shape, dtype);
  const bool large = bytes >= least_kept && keeps.load(std::memory_order_relaxed);
  const Block block = large ? pool().take(block_bytes(bytes)) : Block{};
  Tensor tensor;
  if (block.memory) {
    ASAN_UNPOISON_MEMORY_REGION(block.memory, bytes);
    ASAN_POISON_MEMORY_REGION(static_cast<char*>(block.memory) + bytes, block.bytes - bytes);
    tensor = tensor_of(block.memory, shape, dtype, give, reinterpret_cast<void*>(block.bytes));
  } else {
    tensor = empty(shape, dtype);
  }
  if (poisons.load(std::memory_order_relaxed)) std::memset(tensor.data(), 0xff, bytes);
  return tensor;
}

Tensor zeros(Dimensions shape, Dtype dtype) {
  Tensor tensor = fresh(shape, dtype);
  std::memset(tensor.data(), 0, tensor.numel() * bytes_of(dtype));
  return tensor;
}

Tensor on_large_pages(const Tensor& given) {
  const Tensor whole = given.contiguous();
  const size_t bytes = whole.numel() * bytes_of(whole.dtype());
  if (!is_large(bytes)) return whole;
  const Block block = allocate(block_bytes(bytes));
  if (!block.memory) return whole;
  std::memcpy(block.memory, whole.data(), bytes);
  const auto free = [](void* memory, void* size) {
    free_aligned({memory, reinterpret_cast<size_t>(size)});
  };
  return tensor_of(block.memory, whole.sizes(), whole.dtype(), free,
                   reinterpret_cast<void*>(block.bytes));
}

int64_t release_memory() { return static_cast<int64_t>(pool().release()); }

void keep_memory(bool keep) { keeps = keep; }

void poison_memory(bool poison) { poisons = poison; }

}  // namespace fused_lstm
