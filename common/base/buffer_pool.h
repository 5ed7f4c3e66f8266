// Memory of messages and of what is computed for them, kept for reuse: a message of megabytes is
// made, sent and forgotten many times a second, and memory fresh from the system costs a page fault
// for every 4 KiB. Blocks come in size classes (a quarter of a power of two apart); those that are
// given back are kept up to a limit, above which the ones that waited longest go to the system. Any
// thread may take and give. Under the sanitizers nothing is kept, so that they see every use after
// the end.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mf {

/// The most that is kept: some micro-batches' worth of a wide layer.
inline constexpr size_t kPooledBytesMax = size_t{512} << 20;

struct PoolBlock {
  void* memory = nullptr;  // 64-byte aligned
  size_t bytes = 0;        // of the class: at least what was asked for
};

/// Uninitialised. std::bad_alloc when the system refuses it, with nothing kept either.
PoolBlock TakeBlock(size_t bytes);
void GiveBlock(PoolBlock block);

/// Bytes of blocks that were given back and are kept.
size_t PooledBytes();
/// Gives all of them to the system, which may have run out of memory.
void EmptyPool();
/// Gives those to the system that nobody has taken since the last call: answers that grow with a
/// run leave a block of every class behind them.
void GiveUnusedBlocks();

/// A standard allocator on the pool, for nodes that come and go with messages.
template <class T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class U>
  PoolAllocator(const PoolAllocator<U>&) {}  // NOLINT: implicit, as the standard asks
  T* allocate(size_t count) { return static_cast<T*>(TakeBlock(count * sizeof(T)).memory); }
  void deallocate(T* memory, size_t count);
  template <class U>
  bool operator==(const PoolAllocator<U>&) const {
    return true;
  }
};

/// The class that a block of `bytes` belongs to.
size_t ClassBytes(size_t bytes);

template <class T>
void PoolAllocator<T>::deallocate(T* memory, size_t count) {
  GiveBlock({memory, ClassBytes(count * sizeof(T))});
}

}  // namespace mf
