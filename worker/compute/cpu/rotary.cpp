#include "worker/compute/cpu/rotary.h"

#include <cmath>

namespace mf {

Rotary::Rotary(size_t head_dim, double rotary_pct, size_t length)
    : head_dim_(head_dim),
      pairs_(static_cast<size_t>(std::floor(static_cast<double>(head_dim) * rotary_pct / 2))) {
  for (size_t position = 0; position < length; ++position) {
    for (size_t i = 0; i < pairs_; ++i) {
      const double exponent = -static_cast<double>(i) / static_cast<double>(pairs_);
      const double angle = static_cast<double>(position) * std::pow(10000.0, exponent);
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void Rotary::Rotate(size_t position, size_t heads, float direction, float* x) const {
  const float* cosine = cosines_.data() + position * pairs_;
  const float* sine = sines_.data() + position * pairs_;
  for (size_t head = 0; head < heads; ++head, x += head_dim_) {
    for (size_t i = 0; i < pairs_; ++i) {
      const float a = x[i];
      const float b = x[pairs_ + i];
      const float s = direction * sine[i];
      x[i] = a * cosine[i] - b * s;
      x[pairs_ + i] = b * cosine[i] + a * s;
    }
  }
}

}  // namespace mf
