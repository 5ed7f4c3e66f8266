#include "pserver/mapped_memory.h"

#include <sys/mman.h>

#include <bit>
#include <new>

namespace mf {

MappedMemory::MappedMemory(size_t bytes) : bytes_(bytes) {
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
               -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw std::bad_alloc();
  }
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

FloatSlots::FloatSlots(size_t width, size_t slots_per_chunk)
    : width_(width), shift_(std::bit_width(std::bit_ceil(slots_per_chunk)) - 1) {
  mask_ = (size_t{1} << shift_) - 1;
}

void FloatSlots::Reserve(size_t count) {
  while (chunks_.size() << shift_ < count) {
    chunks_.emplace_back((size_t{1} << shift_) * width_ * sizeof(float));
  }
}

}  // namespace mf
