#include "worker/export/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mf {
namespace {

void Penalise(std::span<const uint32_t> context, double penalty, std::vector<float>* logits) {
  std::vector<bool> seen(logits->size());
  for (const uint32_t id : context) {
    if (id >= seen.size() || seen[id]) continue;
    seen[id] = true;
    float& logit = (*logits)[id];
    logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
  }
}

/// Weights of tokens that are left out become 0.
void KeepLikeliest(const std::vector<float>& logits, const Sampling& sampling,
                   std::vector<double>* weights) {
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  size_t kept = order.size();
  if (sampling.top_k > 0) kept = std::min(kept, static_cast<size_t>(sampling.top_k));
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += (*weights)[order[i]];
  double so_far = 0;
  size_t nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || so_far < sampling.top_p * sum)) {
    so_far += (*weights)[order[nucleus++]];
  }
  for (size_t i = nucleus; i < order.size(); ++i) (*weights)[order[i]] = 0;
}

}  // namespace

uint32_t Sample(std::vector<float> logits, std::span<const uint32_t> context,
                const Sampling& sampling, double unit) {
  if (sampling.repetition_penalty != 1) Penalise(context, sampling.repetition_penalty, &logits);
  const auto best = std::max_element(logits.begin(), logits.end());
  if (sampling.temperature == 0) return static_cast<uint32_t>(best - logits.begin());
  std::vector<double> weights;
  for (const float logit : logits) {
    const double below = static_cast<double>(logit) - static_cast<double>(*best);
    weights.push_back(std::exp(below / sampling.temperature));
  }
  if (sampling.top_k > 0 || sampling.top_p < 1) KeepLikeliest(logits, sampling, &weights);
  std::vector<double> cumulative(weights.size());
  std::partial_sum(weights.begin(), weights.end(), cumulative.begin());
  const auto picked =
      std::upper_bound(cumulative.begin(), cumulative.end(), unit * cumulative.back());
  if (picked != cumulative.end()) return static_cast<uint32_t>(picked - cumulative.begin());
  // Rounding: the last one that has any weight.
  size_t last = weights.size() - 1;
  while (last > 0 && weights[last] == 0) --last;
  return static_cast<uint32_t>(last);
}

}  // namespace mf
