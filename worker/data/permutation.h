// A pseudo-random order that needs no memory.
#pragma once

#include <cstdint>

namespace mf {

/// A pseudo-random permutation of [0, size) that needs no memory: a Feistel network over the next
/// power of four, walked along its cycle until it falls inside.
class Permutation {
 public:
  Permutation(uint64_t key, uint64_t size);  // size >= 1
  uint64_t operator()(uint64_t index) const;

 private:
  uint64_t key_, size_;
  int half_bits_ = 0;
};

}  // namespace mf
