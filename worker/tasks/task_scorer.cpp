#include "worker/tasks/task_scorer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "worker/compute/cpu/softmax.h"

namespace mf {
namespace {

constexpr const char* kWhiteSpace = " \t\n\v\f\r";

int64_t Characters(const std::string& text) {
  const size_t begin = std::min(text.find_first_not_of(kWhiteSpace), text.size());
  return std::count_if(text.begin() + static_cast<std::ptrdiff_t>(begin), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

TaskScorer::TaskScorer(TrainedModel& trained, const Tokenizer& tokenizer, ThreadPool& pool)
    : trained_(trained),
      tokenizer_(tokenizer),
      model_(trained.config(), trained.tensors(), pool),
      sequence_(static_cast<size_t>(trained.config().model.sequence)) {}

Result<TaskScorer::Choice> TaskScorer::Encode(const std::string& context,
                                              const std::string& choice) const {
  const size_t end = context.find_last_not_of(kWhiteSpace);
  const std::string before = context.substr(0, end == std::string::npos ? 0 : end + 1);
  Choice encoded;
  MF_RETURN_IF_ERROR(tokenizer_.Encode(before, &encoded.context));
  MF_RETURN_IF_ERROR(tokenizer_.Encode(context + choice, &encoded.ids));
  // A token may reach over the border. Where none is left for the choice, what differs is its own.
  auto border = encoded.context.size();
  if (border >= encoded.ids.size()) {
    border = static_cast<size_t>(std::mismatch(encoded.ids.begin(), encoded.ids.end(),
                                               encoded.context.begin(), encoded.context.end())
                                     .first -
                                 encoded.ids.begin());
    if (border == encoded.ids.size() && border > 0) --border;
    encoded.context.resize(border);
  }
  encoded.ids.erase(encoded.ids.begin(), encoded.ids.begin() + static_cast<ptrdiff_t>(border));
  if (encoded.context.empty()) {
    if (!tokenizer_.end_of_text().has_value()) {
      return Status::Invalid(
          "the context is empty, and the model's tokenizer has no end of a text to stand in its "
          "place");
    }
    encoded.context.push_back(*tokenizer_.end_of_text());
  }
  // Its last token only predicts, so it takes no place.
  if (encoded.ids.size() > sequence_) {
    return Status::Invalid("a choice of " + std::to_string(encoded.ids.size()) +
                           " tokens, and model.sequence is " + std::to_string(sequence_));
  }
  const size_t room = sequence_ - encoded.ids.size() + 1;
  if (encoded.context.size() > room) {
    encoded.context.erase(encoded.context.begin(),
                          encoded.context.end() - static_cast<std::ptrdiff_t>(room));
  }
  return encoded;
}

Status TaskScorer::TakeContext(const std::vector<uint32_t>& ids) {
  if (ids == taken_) return Status::Ok();
  taken_.clear();
  context_.Truncate(0);
  MF_RETURN_IF_ERROR(
      model_.Extend(*trained_.dense(), ids, trained_.exchange(), workspace_, &context_, &logits_));
  taken_ = ids;
  return Status::Ok();
}

Status TaskScorer::ScoreChoices(std::span<const Choice> choices, std::span<ChoiceScore> scores) {
  // The first token of each follows the context; the others are all in one pass, padded.
  TokenBatch batch;
  batch.sequences = choices.size();
  for (const Choice& choice : choices) batch.length = std::max(batch.length, choice.ids.size() - 1);
  for (size_t i = 0; i < choices.size(); ++i) {
    const std::vector<uint32_t>& ids = choices[i].ids;
    scores[i].log_likelihood = LogProbability(logits_.data(), logits_.size(), ids[0]);
    const auto add = [&](std::vector<uint32_t>* to, auto begin, auto end) {
      to->insert(to->end(), begin, end);
      to->resize((i + 1) * batch.length, 0);
    };
    add(&batch.inputs, ids.begin(), ids.end() - 1);
    add(&batch.targets, ids.begin() + 1, ids.end());
  }
  if (batch.length == 0) return Status::Ok();
  std::vector<float> logprobs;
  MF_RETURN_IF_ERROR(model_.ScoreAfter(*trained_.dense(), batch, trained_.exchange(), workspace_,
                                       &context_, &logprobs));
  for (size_t i = 0; i < choices.size(); ++i) {
    for (size_t t = 0; t + 1 < choices[i].ids.size(); ++t) {
      scores[i].log_likelihood += static_cast<double>(logprobs[i * batch.length + t]);
    }
  }
  return Status::Ok();
}

Status TaskScorer::ScoreGreedily(const std::vector<uint32_t>& ids, ChoiceScore* score) {
  score->greedy = true;
  taken_.clear();  // the choice is taken in, too
  for (size_t i = 0; i < ids.size(); ++i) {
    score->log_likelihood += LogProbability(logits_.data(), logits_.size(), ids[i]);
    const auto likeliest = std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
    score->greedy &= likeliest == static_cast<std::ptrdiff_t>(ids[i]);
    if (i + 1 == ids.size()) break;
    MF_RETURN_IF_ERROR(model_.Extend(*trained_.dense(), {ids[i]}, trained_.exchange(), workspace_,
                                     &context_, &logits_));
  }
  return Status::Ok();
}

Result<std::vector<ChoiceScore>> TaskScorer::Score(const TaskExample& example) {
  std::vector<Choice> choices;
  std::vector<ChoiceScore> scores(example.choices.size());
  const auto vocabulary = static_cast<uint64_t>(trained_.config().model.vocabulary);
  for (size_t i = 0; i < scores.size(); ++i) {
    MF_ASSIGN_OR_RETURN(Choice choice, Encode(example.contexts[i], example.choices[i]));
    if (choice.ids.empty()) return Status::Invalid("a choice has no token of its own");
    for (const uint32_t id : choice.ids) {  // those of the context are asked by the model
      if (id >= vocabulary) {
        return Status::Invalid("token id " + std::to_string(id) +
                               " is above the model's vocabulary of " + std::to_string(vocabulary));
      }
    }
    scores[i].tokens = std::ssize(choice.ids);
    scores[i].characters = Characters(example.choices[i]);
    choices.push_back(std::move(choice));
  }
  for (size_t begin = 0, end = 0; begin < choices.size(); begin = end) {
    while (end < choices.size() && choices[end].context == choices[begin].context) ++end;
    MF_RETURN_IF_ERROR(TakeContext(choices[begin].context));
    MF_RETURN_IF_ERROR(choices.size() == 1
                           ? ScoreGreedily(choices[0].ids, &scores[0])
                           : ScoreChoices(std::span(choices).subspan(begin, end - begin),
                                          std::span(scores).subspan(begin, end - begin)));
  }
  return scores;
}

}  // namespace mf
