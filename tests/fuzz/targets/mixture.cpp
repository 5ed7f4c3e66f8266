// A file of corpora with weights: what is read of it shares out whatever there is.
#include "worker/data/mixture.h"

#include <cmath>
#include <numeric>

#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const auto parts = ReadMixture(fuzz::ScratchFile("corpora.mix", fuzz::TextOf(data, size)));
  if (!parts.ok()) {
    MF_CHECK(parts.status().code() == Code::kInvalid);
    return 0;
  }
  std::vector<double> weights;
  for (const MixturePart& part : parts.value()) {
    MF_CHECK(std::isfinite(part.weight) && part.weight > 0 && !part.path.empty());
    weights.push_back(part.weight);
  }
  const std::vector<int64_t> shares = SharesOf(weights, MixtureOrder::kBlock);
  MF_CHECK(std::accumulate(shares.begin(), shares.end(), int64_t{0}) == MixtureOrder::kBlock);
  std::vector<int64_t> counts(shares.size(), 0);
  const MixtureOrder order(size, shares);
  for (int64_t i = 0; i < MixtureOrder::kBlock; ++i) ++counts[order.At(i).corpus];
  MF_CHECK(counts == shares || counts.size() == 1);
  return 0;
}
