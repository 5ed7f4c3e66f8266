#include "worker/compute/cpu/gelu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/compute/cpu/gelu.cpp"
#include <algorithm>

#include "hwy/foreach_target.h"  // IWYU pragma: keep; includes this file once per instruction set
#include "worker/compute/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mf::HWY_NAMESPACE {
namespace {

// erfc(u) exp(u^2) = t * sum of c_i t^i with t = 1 / (1 + u / 2): a Chebyshev fit on t in (0, 1] of
// our own, error 8e-9 of t, below half an ulp of the result near 1. Highest power first.
constexpr float kErfc[] = {0.04535133662f, -0.2455800363f,  0.5168995401f,  -0.4824747605f,
                           0.1518851796f,  -0.06795827531f, 0.09582719939f, 0.1749485963f,
                           0.2469135612f,  0.2820928673f,   0.2820947997f};
constexpr float kSqrtHalf = 0.70710678f;
constexpr float kInverseSqrtTwoPi = 0.39894228f;

struct Normal {
  Vector distribution;  // Phi(x)
  Vector exponential;   // exp(-x^2 / 2)
};

HWY_INLINE Normal Evaluate(Floats d, Vector x) {
  const Vector one = hn::Set(d, 1.0f);
  const Vector half = hn::Set(d, 0.5f);
  const Vector u = hn::Mul(hn::Abs(x), hn::Set(d, kSqrtHalf));
  const Vector t = hn::Div(one, hn::MulAdd(half, u, one));
  Vector sum = hn::Set(d, kErfc[0]);
  for (size_t i = 1; i < std::size(kErfc); ++i) sum = hn::MulAdd(sum, t, hn::Set(d, kErfc[i]));
  const Vector e = ExpOrNaN(d, hn::Mul(hn::Mul(x, x), hn::Set(d, -0.5f)));
  const Vector tail = hn::Mul(hn::Mul(half, e), hn::Mul(sum, t));  // Phi(-|x|)
  return {hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)), e};
}

void Forward(const float* x, size_t count, float* y) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < count; i += lanes) {
    const size_t part = std::min(lanes, count - i);
    const Vector v = LoadPart(d, x + i, part);
    StorePart(d, hn::Mul(v, Evaluate(d, v).distribution), y + i, part);
  }
}

void Backward(const float* x, const float* dy, size_t count, float* dx) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < count; i += lanes) {
    const size_t part = std::min(lanes, count - i);
    const Vector v = LoadPart(d, x + i, part);
    const Normal normal = Evaluate(d, v);
    const Vector density = hn::Mul(normal.exponential, hn::Set(d, kInverseSqrtTwoPi));
    const Vector slope = hn::MulAdd(v, density, normal.distribution);
    StorePart(d, hn::Mul(slope, LoadPart(d, dy + i, part)), dx + i, part);
  }
}

}  // namespace
}  // namespace mf::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

void Gelu(const float* x, size_t count, float* y) { HWY_DYNAMIC_DISPATCH(Forward)(x, count, y); }

void GeluBackward(const float* x, const float* dy, size_t count, float* dx) {
  HWY_DYNAMIC_DISPATCH(Backward)(x, dy, count, dx);
}

}  // namespace mf
#endif  // HWY_ONCE
