// Every `operator new` and `operator delete` of a program that includes this in one of its files,
// which defines what is asked before memory is taken.
#pragma once

#include <cstdlib>
#include <new>

namespace mf {
/// False: there is none.
bool MayAllocate(size_t bytes) noexcept;
}  // namespace mf

namespace {

void* Allocate(size_t bytes, size_t alignment) {
  void* memory =
      mf::MayAllocate(bytes)
          ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
          : nullptr;
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, 16); }
void* operator new[](size_t bytes) { return Allocate(bytes, 16); }
void* operator new(size_t bytes, std::align_val_t a) {
  return Allocate(bytes, static_cast<size_t>(a));
}
void* operator new[](size_t bytes, std::align_val_t a) {
  return Allocate(bytes, static_cast<size_t>(a));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
