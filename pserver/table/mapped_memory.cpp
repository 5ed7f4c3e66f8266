#include "pserver/table/mapped_memory.h"

#include <sys/mman.h>

#include <bit>
#include <new>

#include "common/base/huge_pages.h"

namespace mf {
namespace {

constexpr size_t kFirstBlock = size_t{256} << 10;  // of small pages: a small server stays small
constexpr size_t kBlock = size_t{64} << 20;        // untouched pages of it cost nothing
constexpr size_t kOwnMapping = kBlock / 8;         // pieces from here on leave no remains of blocks
constexpr size_t kAlignment = 64;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

MappedMemory::MappedMemory(size_t bytes, Pages pages) {
  const bool huge = pages == Pages::kHuge && bytes >= kHugePageBytes;
  bytes_ = huge ? RoundUp(bytes, kHugePageBytes) : bytes;
  data_ = huge ? MapHugePages(bytes_)
               : mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data_ == MAP_FAILED) throw std::bad_alloc();
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void* PageArena::Take(size_t bytes) {
  bytes = RoundUp(bytes, kAlignment);
  MutexLock lock(mutex_);
  if (bytes > left_) {
    if (bytes >= kOwnMapping) return blocks_.emplace_back(bytes, Pages::kHuge).as<void>();
    const bool first = blocks_.empty() && bytes <= kFirstBlock;
    const size_t block = first ? kFirstBlock : kBlock;
    next_ = blocks_.emplace_back(block, Pages::kHuge).as<std::byte>();
    left_ = block;
  }
  left_ -= bytes;
  return std::exchange(next_, next_ + bytes);
}

Slots::Slots(PageArena& arena, size_t slot_bytes, size_t slots_per_chunk)
    : arena_(&arena),
      slot_bytes_(slot_bytes),
      shift_(std::bit_width(std::bit_ceil(slots_per_chunk)) - 1),
      mask_((size_t{1} << shift_) - 1) {}

Slots Slots::Fixed(PageArena& arena, size_t slot_bytes, size_t slots) {
  Slots all(arena, slot_bytes, slots);
  all.chunks_.push_back(static_cast<std::byte*>(arena.Take(slots * slot_bytes)));
  all.bytes_ = slots * slot_bytes;
  return all;
}

void Slots::Reserve(size_t count) {
  while (chunks_.size() << shift_ < count) {
    const size_t bytes = slot_bytes_ << shift_;
    chunks_.push_back(static_cast<std::byte*>(arena_->Take(bytes)));
    bytes_ += bytes;
  }
}

}  // namespace mf
