#include "worker/export/scorer.h"

#include <algorithm>

namespace mf {

Result<std::unique_ptr<Scorer>> Scorer::Make(const Config& config, Compute& compute,
                                             Compute::Parameters dense, Exchange& exchange) {
  std::unique_ptr<Scorer> scorer(new Scorer(config, compute, std::move(dense), exchange));
  MF_ASSIGN_OR_RETURN(scorer->workspace_, compute.NewWorkspace());
  return scorer;
}

Status Scorer::Score(int64_t size, const Read& read, const Take& take, const Windows& windows) {
  const int64_t sequence = config_.model.sequence;
  const int64_t stride = windows.stride > 0 ? windows.stride : sequence;
  if (stride > sequence) {
    return Status::Invalid(
        "--stride " + std::to_string(stride) +
        ": tokens between the windows would be left out; at most model.sequence, " +
        std::to_string(sequence));
  }
  int64_t scored_end = std::max<int64_t>(size - 1, 0);  // inputs are [0, scored_end)
  if (windows.most > 0 && windows.most < scored_end / sequence + 1) {
    scored_end = std::min(scored_end, windows.most * sequence);
  }
  std::vector<float> logprobs;
  for (int64_t at = 0, scored = 0; scored < scored_end;) {
    // As many whole windows as fit a pass; the rest of the document is a shorter one of its own.
    const int64_t length = std::min(sequence, scored_end - at);
    const int64_t after_first = (scored_end - at - length) / stride;
    const int64_t count =
        1 + std::min(after_first, std::max<int64_t>(tokens_per_pass_ / length, 1) - 1);
    std::vector<uint32_t> ids(static_cast<size_t>((count - 1) * stride + length) + 1);
    MF_RETURN_IF_ERROR(read(at, std::ssize(ids), ids.data()));
    TokenBatch batch;
    batch.sequences = static_cast<size_t>(count);
    batch.length = static_cast<size_t>(length);
    for (int64_t window = 0; window < count; ++window) {
      const auto begin = ids.begin() + window * stride;
      batch.inputs.insert(batch.inputs.end(), begin, begin + length);
      batch.targets.insert(batch.targets.end(), begin + 1, begin + length + 1);
    }
    MF_RETURN_IF_ERROR(compute_.Score(dense_, batch, exchange_, *workspace_, &logprobs));
    MF_CHECK(logprobs.size() == batch.tokens());
    for (int64_t window = 0; window < count; ++window, at += stride) {
      const int64_t known = scored - at;  // of this window the one before has scored
      take(std::span(logprobs).subspan(static_cast<size_t>(window * length + known),
                                       static_cast<size_t>(length - known)));
      scored = at + length;
    }
  }
  return Status::Ok();
}

}  // namespace mf
