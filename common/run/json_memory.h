// Memory for JSON, which must not run out of it half-way.
#pragma once

#include <cstddef>
#include <new>

namespace mf {

/// nlohmann::json takes memory in its destructor, where nothing may fail: the process would end.
/// This takes as much as an object with a text of so many bytes, its copies and its texts are going
/// to need, or throws std::bad_alloc; and gives it back at once to malloc, which then has it for
/// the small pieces that this thread takes while this lives.
class JsonMemory {
 public:
  explicit JsonMemory(size_t text_bytes) {
    ::operator delete(::operator new((size_t{64} << 10) + 48 * text_bytes));
    ++held_;
  }
  ~JsonMemory() { --held_; }
  JsonMemory(const JsonMemory&) = delete;

  /// This thread has one: for tests, in which memory ends.
  static bool held() { return held_ > 0; }

 private:
  static inline thread_local int held_ = 0;
};

}  // namespace mf
