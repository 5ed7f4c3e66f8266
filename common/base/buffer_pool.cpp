#include "common/base/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

#include "common/base/huge_pages.h"
#include "common/base/mutex.h"

namespace mf {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr size_t kClassBytesMin = 64;
constexpr int kSteps = 4;  // classes from one power of two to the next
constexpr int kClasses = 64 * kSteps;

// GCC says it by macros, Clang by features.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MF_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(MF_SANITIZED)
constexpr size_t kKeptMax = 0;
#else
constexpr size_t kKeptMax = kPooledBytesMax;
#endif

int ClassOf(size_t bytes) {
  if (bytes <= kClassBytesMin) return 0;
  // The power of two below `bytes` - 1, and which quarter of it above that.
  const size_t last = bytes - 1;
  const int power = static_cast<int>(std::bit_width(last)) - 1;
  const int quarter = static_cast<int>((last >> (power - 2)) & 3);
  return (power - std::countr_zero(kClassBytesMin)) * kSteps + quarter + 1;
}

size_t BytesOfClass(int index) {
  if (index == 0) return kClassBytesMin;
  const int power = (index - 1) / kSteps + std::countr_zero(kClassBytesMin);
  return (size_t{1} << power) + (static_cast<size_t>((index - 1) % kSteps + 1) << (power - 2));
}

/// Large blocks are mapped, so that they begin a huge page and leave no holes in malloc's memory.
bool IsMapped(size_t bytes) { return kKeptMax > 0 && bytes >= kHugePageBytes; }

void* FromSystem(size_t bytes) {
  if (!IsMapped(bytes)) return ::operator new(bytes, kAlignment);
  return MapHugePages(bytes);
}

void ToSystem(void* memory, size_t bytes) {
  if (IsMapped(bytes)) {
    munmap(memory, bytes);
  } else {
    ::operator delete(memory, kAlignment);
  }
}

/// What stands in a block that is kept: its place in the list of its class (the last one given is
/// taken first, as it is the warmest) and in the list of all by age.
struct Kept {
  Kept* below = nullptr;  // in the class
  Kept* above = nullptr;
  Kept* older = nullptr;
  Kept* newer = nullptr;
  int index = 0;
  uint64_t round = 0;  // when it was given
};
static_assert(sizeof(Kept) <= kClassBytesMin);

class Pool {
 public:
  void* Take(int index) {
    MutexLock lock(mutex_);
    Kept* kept = tops_[index];
    if (kept == nullptr) return nullptr;
    Remove(kept);
    return kept;
  }

  /// Keeps a block; what becomes too much for it is returned in `gone`, a list by `below`.
  Kept* Give(void* memory, int index) {
    MutexLock lock(mutex_);
    Kept* kept =
        new (memory) Kept{.below = tops_[index], .older = newest_, .index = index, .round = round_};
    if (kept->below != nullptr) kept->below->above = kept;
    tops_[index] = kept;
    (newest_ != nullptr ? newest_->newer : oldest_) = kept;
    newest_ = kept;
    bytes_ += BytesOfClass(index);
    return KeepAtMost(kKeptMax);
  }

  /// All that is kept, as Give() returns it.
  Kept* TakeAll() {
    MutexLock lock(mutex_);
    return KeepAtMost(0);
  }

  /// All that was given before the last call and lies here since.
  Kept* TakeUnused() {
    MutexLock lock(mutex_);
    Kept* gone = nullptr;
    while (oldest_ != nullptr && oldest_->round < round_) gone = TakeOldest(gone);
    ++round_;
    return gone;
  }

  size_t bytes() {
    MutexLock lock(mutex_);
    return bytes_;
  }

 private:
  /// Takes out the oldest ones above that, as a list by `below`.
  Kept* KeepAtMost(size_t most) MF_REQUIRES(mutex_) {
    Kept* gone = nullptr;
    while (bytes_ > most) gone = TakeOldest(gone);
    return gone;
  }
  /// Puts the oldest one before `gone`.
  Kept* TakeOldest(Kept* gone) MF_REQUIRES(mutex_) {
    Kept* old = oldest_;
    Remove(old);
    old->below = gone;
    return old;
  }

  void Remove(Kept* kept) MF_REQUIRES(mutex_) {
    (kept->above != nullptr ? kept->above->below : tops_[kept->index]) = kept->below;
    if (kept->below != nullptr) kept->below->above = kept->above;
    (kept->newer != nullptr ? kept->newer->older : newest_) = kept->older;
    (kept->older != nullptr ? kept->older->newer : oldest_) = kept->newer;
    bytes_ -= BytesOfClass(kept->index);
  }

  Mutex mutex_;
  // The links of all blocks, too.
  Kept* tops_[kClasses] MF_GUARDED_BY(mutex_) = {};
  Kept* newest_ MF_GUARDED_BY(mutex_) = nullptr;
  Kept* oldest_ MF_GUARDED_BY(mutex_) = nullptr;
  size_t bytes_ MF_GUARDED_BY(mutex_) = 0;
  uint64_t round_ MF_GUARDED_BY(mutex_) = 0;  // calls of TakeUnused()
};

/// Never destroyed: buffers in static storage may end after it.
Pool& ThePool() {
  static Pool& pool = *new Pool;
  return pool;
}

void ListToSystem(Kept* gone) {
  while (gone != nullptr) {
    Kept* next = gone->below;
    ToSystem(gone, BytesOfClass(gone->index));
    gone = next;
  }
}

}  // namespace

size_t ClassBytes(size_t bytes) { return BytesOfClass(ClassOf(bytes)); }

PoolBlock TakeBlock(size_t bytes) {
  if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
  const int index = ClassOf(bytes);
  const size_t class_bytes = BytesOfClass(index);
  // What is not kept for others has the size that was asked for: sanitizers see where it ends.
  if (kKeptMax == 0) return {FromSystem(std::max(bytes, kClassBytesMin)), class_bytes};
  if (void* memory = ThePool().Take(index); memory != nullptr) return {memory, class_bytes};
  try {
    return {FromSystem(class_bytes), class_bytes};
  } catch (const std::bad_alloc&) {
    EmptyPool();
    return {FromSystem(class_bytes), class_bytes};
  }
}

void GiveBlock(PoolBlock block) {
  ListToSystem(ThePool().Give(block.memory, ClassOf(block.bytes)));
}

void EmptyPool() { ListToSystem(ThePool().TakeAll()); }

void GiveUnusedBlocks() { ListToSystem(ThePool().TakeUnused()); }

size_t PooledBytes() { return ThePool().bytes(); }

}  // namespace mf
