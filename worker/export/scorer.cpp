#include "worker/export/scorer.h"

#include <algorithm>

namespace mf {

Result<std::unique_ptr<Scorer>> Scorer::Make(const Config& config, Compute& compute,
                                             Compute::Parameters dense, Exchange& exchange) {
  std::unique_ptr<Scorer> scorer(new Scorer(config, compute, std::move(dense), exchange));
  MF_ASSIGN_OR_RETURN(scorer->workspace_, compute.NewWorkspace());
  return scorer;
}

Status Scorer::Score(int64_t size, const Read& read, const Take& take, int64_t max_windows) {
  const int64_t sequence = config_.model.sequence;
  int64_t scored_end = std::max<int64_t>(size - 1, 0);  // inputs are [0, scored_end)
  if (max_windows > 0 && max_windows < scored_end / sequence + 1) {
    scored_end = std::min(scored_end, max_windows * sequence);
  }
  std::vector<float> logprobs;
  for (int64_t at = 0; at < scored_end;) {
    // As many whole windows as fit a pass; the rest of the document is a shorter one of its own.
    const int64_t length = std::min(sequence, scored_end - at);
    const int64_t windows = std::clamp<int64_t>(
        std::min(tokens_per_pass_, scored_end - at) / length, 1, tokens_per_pass_);
    const int64_t count = windows * length;
    std::vector<uint32_t> ids(static_cast<size_t>(count) + 1);
    MF_RETURN_IF_ERROR(read(at, count + 1, ids.data()));
    TokenBatch batch;
    batch.sequences = static_cast<size_t>(windows);
    batch.length = static_cast<size_t>(length);
    batch.inputs.assign(ids.begin(), ids.end() - 1);
    batch.targets.assign(ids.begin() + 1, ids.end());
    MF_RETURN_IF_ERROR(compute_.Score(dense_, batch, exchange_, *workspace_, &logprobs));
    MF_CHECK(logprobs.size() == batch.tokens());
    take(logprobs);
    at += count;
  }
  return Status::Ok();
}

}  // namespace mf
