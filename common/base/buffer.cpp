#include "common/base/buffer.h"

#include <new>

#include "common/base/buffer_pool.h"
#include "common/base/check.h"

namespace mf {
namespace {

constexpr size_t kHeaderBytes = 64;  // before the bytes, for the shared pointer's count

/// Puts the count of a shared pointer into its block's header and, when the last owner has gone,
/// gives the block back: one block, and nothing else, for a buffer.
template <class T>
struct InHeader {
  using value_type = T;
  explicit InHeader(PoolBlock b) : block(b) {}
  template <class U>
  InHeader(const InHeader<U>& other) : block(other.block) {}  // NOLINT: implicit
  T* allocate(size_t count) {
    static_assert(sizeof(T) <= kHeaderBytes);
    MF_CHECK(count == 1);
    return static_cast<T*>(block.memory);
  }
  void deallocate(T*, size_t) { GiveBlock(block); }
  template <class U>
  bool operator==(const InHeader<U>& other) const {
    return block.memory == other.block.memory;
  }
  PoolBlock block;
};

}  // namespace

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes > SIZE_MAX - kHeaderBytes) throw std::bad_alloc();
  const PoolBlock block = TakeBlock(bytes + kHeaderBytes);
  data_ = std::shared_ptr<std::byte>(
      static_cast<std::byte*>(block.memory) + kHeaderBytes, [](std::byte*) {},
      InHeader<std::byte>(block));
}

}  // namespace mf
