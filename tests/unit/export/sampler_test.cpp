// Goal: tokens are drawn with the probabilities that the definitions of temperature, top-k, nucleus
// and repetition penalty give.
#include "worker/export/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace mf {
namespace {

/// Shares of the tokens over `count` draws that lie evenly in [0, 1): exact up to 1 / count.
std::map<uint32_t, double> SharesOf(const std::vector<float>& logits, const Sampling& sampling,
                                    const std::vector<uint32_t>& context = {}) {
  constexpr int kDraws = 200'000;
  std::map<uint32_t, double> shares;
  for (int i = 0; i < kDraws; ++i) {
    shares[Sample(logits, context, sampling, (i + 0.5) / kDraws)] += 1.0 / kDraws;
  }
  return shares;
}

void ExpectShares(const std::map<uint32_t, double>& found,
                  const std::map<uint32_t, double>& expected) {
  double sum = 0;
  for (const auto& [id, weight] : expected) sum += weight;
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [id, weight] : expected) {
    ASSERT_TRUE(found.contains(id)) << id;
    EXPECT_NEAR(found.at(id), weight / sum, 2e-4) << id;
  }
}

const std::vector<float> kLogits = {1.0f, -2.0f, 3.0f, 0.5f, 3.0f};

TEST(Sampler, Temperature) {
  for (const double t : {0.5, 1.0, 2.0}) {
    ExpectShares(SharesOf(kLogits, {.temperature = t}), {{0, std::exp(1 / t)},
                                                         {1, std::exp(-2 / t)},
                                                         {2, std::exp(3 / t)},
                                                         {3, std::exp(0.5 / t)},
                                                         {4, std::exp(3 / t)}});
  }
  // The likeliest; of two the lower id.
  ExpectShares(SharesOf(kLogits, {.temperature = 0}), {{2, 1}});
}

TEST(Sampler, TopK) {
  ExpectShares(SharesOf(kLogits, {.temperature = 1, .top_k = 1}), {{2, 1}});
  ExpectShares(SharesOf(kLogits, {.temperature = 1, .top_k = 3}),
               {{2, std::exp(3)}, {4, std::exp(3)}, {0, std::exp(1)}});
  ExpectShares(SharesOf(kLogits, {.temperature = 1, .top_k = 99}),
               SharesOf(kLogits, {.temperature = 1}));
}

TEST(Sampler, Nucleus) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(1.0f), std::log(4.0f), std::log(2.0f),
                                     std::log(1.0f)};
  const auto with = [&](double p) { return SharesOf(logits, {.temperature = 1, .top_p = p}); };
  ExpectShares(with(0.1), {{1, 1}});
  ExpectShares(with(0.49), {{1, 1}});
  ExpectShares(with(0.6), {{1, 4}, {2, 2}});
  ExpectShares(with(0.8), {{1, 4}, {2, 2}, {0, 1}});
  ExpectShares(with(1), {{1, 4}, {2, 2}, {0, 1}, {3, 1}});
  // Of what top-k has left.
  ExpectShares(SharesOf(logits, {.temperature = 1, .top_k = 2, .top_p = 0.7}), {{1, 4}, {2, 2}});
  ExpectShares(SharesOf(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6}), {{1, 1}});
}

TEST(Sampler, RepetitionPenalty) {
  const std::vector<float> logits = {2.0f, -1.0f, 1.0f};
  ExpectShares(SharesOf(logits, {.temperature = 1, .repetition_penalty = 2}, {0, 1, 1, 0, 77}),
               {{0, std::exp(1)}, {1, std::exp(-2)}, {2, std::exp(1)}});
  EXPECT_EQ(
      Sample(logits, std::vector<uint32_t>{0}, {.temperature = 0, .repetition_penalty = 3}, 0), 2u);
}

TEST(Sampler, TheEndsOfTheUnitInterval) {
  for (const double unit : {0.0, std::nextafter(1.0, 0.0)}) {
    const uint32_t id = Sample(kLogits, {}, {.temperature = 1, .top_k = 2}, unit);
    EXPECT_EQ(id, unit == 0 ? 2u : 4u);
  }
}

}  // namespace
}  // namespace mf
