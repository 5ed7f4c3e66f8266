// Rotary position embedding, GPT-NeoX half rotation: of the first 2 * pairs numbers of a head,
// number i is rotated with number pairs + i by the angle position * 10000^(-i / pairs).
#pragma once

#include <cstddef>
#include <vector>

namespace mf {

class Rotary {
 public:
  Rotary() = default;
  /// For positions [0, length). pairs = floor(head_dim * rotary_pct / 2).
  Rotary(size_t head_dim, double rotary_pct, size_t length);

  size_t pairs() const { return pairs_; }
  const std::vector<float>& cosines() const { return cosines_; }  // [length][pairs]
  const std::vector<float>& sines() const { return sines_; }

  /// Rotates every head of one token's vector [heads][head_dim] in place.
  void Apply(size_t position, size_t heads, float* x) const { Rotate(position, heads, 1.0f, x); }
  /// The inverse, which is also how gradients go back.
  void ApplyInverse(size_t position, size_t heads, float* x) const {
    Rotate(position, heads, -1.0f, x);
  }

 private:
  void Rotate(size_t position, size_t heads, float direction, float* x) const;

  size_t head_dim_ = 0;
  size_t pairs_ = 0;
  std::vector<float> cosines_;  // [length][pairs]
  std::vector<float> sines_;    // [length][pairs]
};

}  // namespace mf
