#include "worker/compute/cpu/hash.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/compute/cpu/hash.cpp"
#include <algorithm>
#include <limits>

#include "common/base/check.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep; includes this file once per instruction set
#include "worker/compute/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mf::HWY_NAMESPACE {
namespace {

// A vector holds one number of several tokens: lane = token. Numbers of one token are `width`
// apart, so they are gathered; everything that is written per pair is contiguous (pair-major).
using Ints = hn::RebindToSigned<Floats>;
using IntVector = hn::Vec<Ints>;
constexpr size_t kMaxBits = 32;

/// One table's bucket for the tokens of a vector.
struct Bucket {
  IntVector index;
  Vector p;    // eq. 10
  Vector sum;  // sum |z_i| = sim of the bucket of z itself
};

/// A bucket one flip away: bit `flip` changed, `magnitude` = |z_i| there.
struct Flip {
  IntVector flip;
  Vector magnitude;
};

class Table {
 public:
  explicit Table(const HashParameters& hash)
      : bits_(hash.bits), minus_two_over_t_(-2.0f / hash.temperature) {}

  /// `z` is the sub-vector of the first token, `rows` the distance of each lane's token from it.
  HWY_INLINE Bucket Hash(const float* z, IntVector rows) {
    const Floats d;
    const Ints di;
    Bucket bucket{hn::Zero(di), hn::Set(d, 1.0f), hn::Zero(d)};
    for (size_t i = 0; i < bits_; ++i) {
      const Vector value = hn::GatherIndex(d, z + i, rows);
      const Vector magnitude = hn::Abs(value);
      // exp(-2|z|/t) is in [0, 1]: nothing overflows, and the product is at most 2^bits.
      const Vector e = Decay(magnitude);
      hn::Store(magnitude, d, magnitudes_ + i * kMaxLanes);
      hn::Store(e, d, decays_ + i * kMaxLanes);
      bucket.p = hn::MulAdd(bucket.p, e, bucket.p);
      bucket.sum = hn::Add(bucket.sum, magnitude);
      const IntVector bit = hn::Set(di, Bit(i));
      bucket.index = hn::Or(
          bucket.index, hn::IfThenElseZero(hn::RebindMask(di, hn::Ge(value, hn::Zero(d))), bit));
    }
    bucket.p = hn::Div(hn::Set(d, 1.0f), bucket.p);
    used_ = hn::Zero(di);
    return bucket;
  }

  /// The smallest |z_i| that was not flipped yet, ties to the lowest i. Magnitudes are compared by
  /// their bits, which order like the numbers and give NaN a place too.
  HWY_INLINE Flip Next() {
    const Floats d;
    const Ints di;
    IntVector best = hn::Set(di, std::numeric_limits<int32_t>::max());
    IntVector flip = hn::Zero(di);
    for (size_t i = bits_; i-- > 0;) {
      const IntVector bit = hn::Set(di, Bit(i));
      const IntVector key = hn::BitCast(di, hn::Load(d, magnitudes_ + i * kMaxLanes));
      const auto free = hn::Eq(hn::And(used_, bit), hn::Zero(di));
      const auto take = hn::And(free, hn::Not(hn::Gt(key, best)));
      best = hn::IfThenElse(take, key, best);
      flip = hn::IfThenElse(take, bit, flip);
    }
    used_ = hn::Or(used_, flip);
    return {flip, hn::BitCast(d, best)};
  }

  /// exp(-2|z|/t), the factor from the bucket of z to the one with that bit flipped.
  HWY_INLINE Vector Decay(Vector magnitude) const {
    const Floats d;
    return ExpOrNaN(d, hn::Mul(magnitude, hn::Set(d, minus_two_over_t_)));
  }
  HWY_INLINE Vector StoredDecay(size_t i) const {
    return hn::Load(Floats(), decays_ + i * kMaxLanes);
  }
  static int32_t Bit(size_t i) { return static_cast<int32_t>(uint32_t{1} << i); }

 private:
  const size_t bits_;
  const float minus_two_over_t_;
  IntVector used_;
  HWY_ALIGN float magnitudes_[kMaxBits * kMaxLanes];
  HWY_ALIGN float decays_[kMaxBits * kMaxLanes];
};

/// Distance of each lane's token from the first; lanes beyond `count` repeat the last token.
HWY_INLINE IntVector RowOffsets(size_t count, size_t stride) {
  HWY_ALIGN int32_t lanes[kMaxLanes];
  for (size_t lane = 0; lane < kMaxLanes; ++lane) {
    lanes[lane] = static_cast<int32_t>(std::min(lane, count - 1) * stride);
  }
  return hn::Load(Ints(), lanes);
}

/// Where the pairs of a batch are written.
struct Writer {
  const Hashes& out;

  template <class T>
  static void StoreIndices(const int32_t* from, size_t count, std::byte* base, size_t at) {
    T* to = reinterpret_cast<T*>(base) + at;
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
  }

  HWY_INLINE void Write(size_t pair, size_t token, size_t count, IntVector index, Vector weight) {
    const size_t at = pair * out.tokens + token;
    StorePart(Floats(), weight, out.weights.as<float>() + at, count);
    HWY_ALIGN int32_t lanes[kMaxLanes];
    hn::Store(index, Ints(), lanes);
    std::byte* base = out.indices.data();
    if (out.index_bytes == 1) StoreIndices<uint8_t>(lanes, count, base, at);
    if (out.index_bytes == 2) StoreIndices<uint16_t>(lanes, count, base, at);
    if (out.index_bytes == 4) StoreIndices<uint32_t>(lanes, count, base, at);
  }
};

void Forward(const HashParameters& hash, const float* z, size_t begin, size_t count,
             const Hashes& out) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  const Vector two = hn::Set(d, 2.0f);
  const bool scaled = hash.score == Score::kScaled;
  Table table(hash);
  Writer writer{out};
  for (size_t t = 0; t < count; t += lanes) {
    const size_t tokens = std::min(lanes, count - t);
    const IntVector rows = RowOffsets(tokens, hash.width());
    for (size_t k = 0; k < hash.tables; ++k) {
      const Bucket bucket = table.Hash(z + t * hash.width() + k * hash.bits, rows);
      const size_t pair = k * hash.probes;
      writer.Write(pair, begin + t, tokens, bucket.index,
                   scaled ? hn::Mul(bucket.p, bucket.sum) : bucket.p);
      for (size_t j = 1; j < hash.probes; ++j) {
        const Flip next = table.Next();
        const Vector p = hn::Mul(bucket.p, table.Decay(next.magnitude));
        const Vector sim = hn::NegMulAdd(two, next.magnitude, bucket.sum);
        writer.Write(pair + j, begin + t, tokens, hn::Xor(bucket.index, next.flip),
                     scaled ? hn::Mul(p, sim) : p);
      }
    }
  }
}

/// The inverse of GatherIndex. Lanes beyond the last token repeat its place with a zero gradient
/// and must not be written.
HWY_INLINE void Scatter(Vector value, IntVector rows, size_t count, size_t stride, float* to) {
  const Floats d;
  if (count == hn::Lanes(d)) {
    hn::ScatterIndex(value, d, to, rows);
    return;
  }
  HWY_ALIGN float lanes[kMaxLanes];
  hn::Store(value, d, lanes);
  for (size_t lane = 0; lane < count; ++lane) to[lane * stride] = lanes[lane];
}

/// What the pairs of a table put on dz. With g_b = dL/dw_b, s the signs of z and e_i =
/// exp(-2|z_i|/t): s_i - tanh(z_i/t) = s_i * 2 e_i / (1 + e_i) for a bucket that keeps bit i, and
/// -s_i - tanh(z_i/t) = -s_i * 2 / (1 + e_i) for the one that flips it: no cancellation anywhere.
struct PairSums {
  Vector plain;  // scaled: sum of g_b p_b, the part p_b * s_b,i
  Vector slope;  // sum of g_b p_b / t, times sim_b if scaled
};

void Backward(const HashParameters& hash, const float* z, size_t begin, size_t count, size_t total,
              const float* dweights, float* dz) {
  const Floats d;
  const Ints di;
  const size_t lanes = hn::Lanes(d);
  const Vector one = hn::Set(d, 1.0f);
  const Vector two = hn::Set(d, 2.0f);
  const Vector inverse_t = hn::Set(d, 1.0f / hash.temperature);
  const bool scaled = hash.score == Score::kScaled;
  Table table(hash);
  // Per flipped pair: which bit, and its terms.
  IntVector flips[kMaxBits];
  PairSums flipped[kMaxBits];
  for (size_t t = 0; t < count; t += lanes) {
    const size_t tokens = std::min(lanes, count - t);
    const IntVector rows = RowOffsets(tokens, hash.width());
    for (size_t k = 0; k < hash.tables; ++k) {
      const size_t at = t * hash.width() + k * hash.bits;
      const Bucket bucket = table.Hash(z + at, rows);
      const float* g = dweights + k * hash.probes * total + begin + t;
      const auto terms = [&](const float* gradient, Vector p, Vector sim) HWY_ATTR {
        const Vector gp = hn::Mul(LoadPart(d, gradient, tokens), p);
        const Vector slope = hn::Mul(gp, inverse_t);
        return scaled ? PairSums{gp, hn::Mul(slope, sim)} : PairSums{hn::Zero(d), slope};
      };
      PairSums all = terms(g, bucket.p, bucket.sum);
      for (size_t j = 1; j < hash.probes; ++j) {
        const Flip next = table.Next();
        flips[j - 1] = next.flip;
        flipped[j - 1] = terms(g + j * total, hn::Mul(bucket.p, table.Decay(next.magnitude)),
                               hn::NegMulAdd(two, next.magnitude, bucket.sum));
        all.plain = hn::Add(all.plain, flipped[j - 1].plain);
        all.slope = hn::Add(all.slope, flipped[j - 1].slope);
      }
      for (size_t i = 0; i < hash.bits; ++i) {
        const IntVector bit = hn::Set(di, Table::Bit(i));
        PairSums here{hn::Zero(d), hn::Zero(d)};
        for (size_t j = 1; j < hash.probes; ++j) {
          const auto match = hn::RebindMask(d, hn::Eq(flips[j - 1], bit));
          here.plain = hn::IfThenElse(match, flipped[j - 1].plain, here.plain);
          here.slope = hn::IfThenElse(match, flipped[j - 1].slope, here.slope);
        }
        const Vector e = table.StoredDecay(i);
        const Vector scale = hn::Div(two, hn::Add(one, e));
        const Vector kept = hn::Mul(hn::Sub(all.slope, here.slope), e);
        Vector value = hn::Mul(scale, hn::Sub(kept, here.slope));
        value = hn::Add(value, hn::NegMulAdd(two, here.plain, all.plain));
        const auto negative = hn::RebindMask(d, hn::Eq(hn::And(bucket.index, bit), hn::Zero(di)));
        value = hn::IfThenElse(negative, hn::Neg(value), value);
        Scatter(value, rows, tokens, hash.width(), dz + at + i);
      }
    }
  }
}

}  // namespace
}  // namespace mf::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

Hashes MakeHashes(const HashParameters& hash, size_t tokens) {
  MF_CHECK(hash.bits >= 1 && hash.bits <= 32 && hash.probes <= hash.bits + 1);
  Hashes hashes;
  hashes.tokens = tokens;
  hashes.pairs = hash.pairs();
  hashes.probes = hash.probes;
  hashes.index_bytes = hash.index_bytes;
  hashes.indices = Buffer(hash.pairs() * tokens * static_cast<size_t>(hash.index_bytes));
  hashes.weights = Buffer(hash.pairs() * tokens * sizeof(float));
  return hashes;
}

void HashRows(const HashParameters& hash, const float* z, size_t begin, size_t count,
              const Hashes& out) {
  HWY_DYNAMIC_DISPATCH(Forward)(hash, z, begin, count, out);
}

void HashBackwardRows(const HashParameters& hash, const float* z, size_t begin, size_t count,
                      size_t tokens, const float* dweights, float* dz) {
  HWY_DYNAMIC_DISPATCH(Backward)(hash, z, begin, count, tokens, dweights, dz);
}

}  // namespace mf
#endif  // HWY_ONCE
