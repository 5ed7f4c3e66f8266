// Zero-shot tasks: which of the texts that may follow a context the model finds likeliest. What is
// compared is log p(choice | context), summed over the choice's tokens, as in "Language Models are
// Few-Shot Learners" (Brown et al. 2020, section 2.4) and in the public evaluation harness of
// EleutherAI, whose rules for tokens are kept: context and choice are encoded together, white space
// at the end of the context goes to the choice, and of what is too long the beginning is left out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "worker/export/trained_model.h"
#include "worker/model/model.h"
#include "worker/tasks/task_file.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

struct ChoiceScore {
  double log_likelihood = 0;  // nats
  int64_t tokens = 0;
  int64_t characters = 0;  // code points of the choice without white space at its beginning
  bool greedy = false;     // of a single choice: each of its tokens is the likeliest one

  double per_character() const {
    return log_likelihood / static_cast<double>(characters > 0 ? characters : 1);
  }
};

class TaskScorer {
 public:
  /// All outlive it. Computes on the CPU, on `pool`.
  TaskScorer(TrainedModel& trained, const Tokenizer& tokenizer, ThreadPool& pool);

  /// A score for each choice. A context is computed once for all choices that share it. kInvalid,
  /// in words without a file's name, for a choice without tokens or above model.sequence, and for
  /// an empty context where the tokenizer has no end of text to stand in its place.
  Result<std::vector<ChoiceScore>> Score(const TaskExample& example);

 private:
  struct Choice {
    std::vector<uint32_t> context, ids;
  };
  Result<Choice> Encode(const std::string& context, const std::string& choice) const;
  /// Takes the context in, unless it is the one that was taken in last.
  Status TakeContext(const std::vector<uint32_t>& ids);
  /// Choices of the context that was taken in.
  Status ScoreChoices(std::span<const Choice> choices, std::span<ChoiceScore> scores);
  Status ScoreGreedily(const std::vector<uint32_t>& ids, ChoiceScore* score);

  TrainedModel& trained_;
  const Tokenizer& tokenizer_;
  const Model model_;
  const size_t sequence_;
  Model::Workspace workspace_;
  Model::Context context_;
  std::vector<uint32_t> taken_;  // what context_ is of
  std::vector<float> logits_;    // after it
};

}  // namespace mf
