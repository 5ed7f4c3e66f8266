#include "worker/data/data.h"

#include <algorithm>
#include <cmath>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "common/base/logging.h"
#include "common/base/random.h"

namespace mf {
namespace {

// Streams of random numbers under one seed; any distinct numbers.
constexpr uint64_t kEpochStream = 0x65706f6368;
constexpr uint64_t kEvalStream = 0x6576616c;
constexpr uint64_t kMixtureStream = 0x6d6978;

/// Windows of `sequence` tokens, each with the token after it, that fit into `tokens`.
int64_t WindowsIn(int64_t tokens, int64_t sequence) { return (tokens - 1) / sequence; }

/// The tokens of `path`, or of the ids that are kept of it, which may lie in the run's own folder.
Result<std::shared_ptr<const Tokens>> OpenOrIds(const std::string& path, int64_t vocabulary,
                                                const Tokens::Options& options,
                                                const TokenSource::Places& places) {
  if (!places.ids_of) return Tokens::Open(path, vocabulary, options);
  MF_ASSIGN_OR_RETURN(const std::string ids, places.ids_of(path));
  if (ids == path) return Tokens::Open(path, vocabulary, options);
  Tokens::Options of_ids = options;
  of_ids.own.clear();
  auto tokens = Tokens::Open(ids, vocabulary, of_ids);
  if (tokens.ok()) return tokens;
  return Status(tokens.status().code(), tokens.status().message() + " (these are the ids of " +
                                            path + "; they are made anew if that folder is gone)");
}

}  // namespace

Result<std::unique_ptr<TokenSource>> TokenSource::Open(const Config& config,
                                                       const std::string& data,
                                                       const std::string& validation,
                                                       const Places& places) {
  std::unique_ptr<TokenSource> source(new TokenSource);
  source->sequence_ = config.model.sequence;
  source->batch_ = config.train.batch;
  source->micro_batches_ = config.train.micro_batches;
  source->seed_ = config.train.seed;
  if (!places.out.empty()) source->digests_ = places.out + "/data-digests";
  DigestStore known;
  if (!places.out.empty()) {
    MF_ASSIGN_OR_RETURN(known, DigestStore::Load(source->digests_));
  }
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(config.tokenizer, "the run's tokenizer"));
  const Tokens::Options options{.data = config.data,
                                .own = {{"--out", places.out}, {"--export", places.export_path}},
                                .digest = true,
                                .known = &known,
                                .tokenizer = tokenizer};
  const OpenTokens open = [&](const std::string& path) {
    return OpenOrIds(path, config.model.vocabulary, options, places);
  };
  MF_ASSIGN_OR_RETURN(const std::vector<MixturePart> parts, CorporaOf(data));
  const double held_out = validation.empty() ? config.data.validation_ratio : 0;
  for (const MixturePart& part : parts) {
    MF_RETURN_IF_ERROR(source->AddCorpus(part, open, held_out));
  }
  std::vector<double> weights;
  for (const MixturePart& part : parts) weights.push_back(part.weight);
  source->shares_ = SharesOf(weights, MixtureOrder::kBlock);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (source->shares_[i] > 0) continue;
    return Status::Invalid(data + ": the weight of " + parts[i].path + " is less than one in " +
                           std::to_string(MixtureOrder::kBlock) +
                           " of all; give it more, or leave it out");
  }
  if (!validation.empty()) {
    MF_RETURN_IF_ERROR(source->OpenValidation(validation, open));
  }
  source->SetEvaluation(config.train.eval_batches, weights);
  return source;
}

Status TokenSource::AddCorpus(const MixturePart& part, const OpenTokens& open, double held_out) {
  Corpus corpus{.path = part.path};
  MF_ASSIGN_OR_RETURN(corpus.tokens, open(part.path));
  const int64_t size = corpus.tokens->size();
  corpus.train_end = size - static_cast<int64_t>(std::floor(held_out * static_cast<double>(size)));
  corpus.held_out = {.tokens = corpus.tokens, .begin = corpus.train_end, .end = size};
  const int64_t needed = sequence_ + 1;  // the last token is only a target
  const std::string needs = Needs();
  if (corpus.train_end < needed) {
    return Status::Invalid(part.path + ": too short: " + std::to_string(corpus.train_end) +
                           " tokens to train on" + needs);
  }
  const int64_t tokens = corpus.held_out.size();
  if (tokens > 0 && tokens < needed) {
    return Status::Invalid(part.path + ": too short: data.validation_ratio holds out " +
                           std::to_string(tokens) + " tokens" + needs + " (0 holds out nothing)");
  }
  // One window less than fit, where possible, leaves room for any offset below a window.
  corpus.windows = std::max<int64_t>(1, (corpus.train_end - sequence_) / sequence_);
  MF_CHECK(corpus.windows <= WindowsIn(corpus.train_end, sequence_));
  corpora_.push_back(std::move(corpus));
  return Status::Ok();
}

Status TokenSource::OpenValidation(const std::string& path, const OpenTokens& open) {
  MF_ASSIGN_OR_RETURN(validation_, open(path));
  for (const Corpus& corpus : corpora_) {
    if (const std::string both = corpus.tokens->CommonFile(*validation_); !both.empty()) {
      spdlog::warn(
          "--val holds what is trained on, so its loss says nothing of unseen data: {} are "
          "the same",
          both);
    }
  }
  if (validation_->size() >= sequence_ + 1) return Status::Ok();
  return Status::Invalid(path + ": too short: " + std::to_string(validation_->size()) + " tokens" +
                         Needs());
}

std::string TokenSource::Needs() const {
  return "; one sequence of model.sequence = " + std::to_string(sequence_) + " needs " +
         std::to_string(sequence_ + 1);
}

void TokenSource::SetEvaluation(int64_t most, const std::vector<double>& weights) {
  if (validation_ != nullptr) {
    evaluations_.push_back(
        {.of = {.tokens = validation_, .begin = 0, .end = validation_->size()}, .sequences = most});
  } else {
    const std::vector<int64_t> shares = SharesOf(weights, most);
    for (size_t i = 0; i < corpora_.size(); ++i) {
      evaluations_.push_back({.of = corpora_[i].held_out, .sequences = shares[i]});
    }
  }
  for (Evaluation& evaluation : evaluations_) {
    const int64_t tokens = evaluation.of.size();
    evaluation.sequences =
        tokens == 0 ? 0 : std::min(evaluation.sequences, WindowsIn(tokens, sequence_));
    eval_sequences_ += evaluation.sequences;
  }
}

Status TokenSource::Append(const Tokens& tokens, int64_t begin, TokenBatch* batch) const {
  std::vector<uint32_t> ids(static_cast<size_t>(sequence_) + 1);
  MF_RETURN_IF_ERROR(tokens.Copy(begin, sequence_ + 1, ids.data()));
  batch->inputs.insert(batch->inputs.end(), ids.begin(), ids.end() - 1);
  batch->targets.insert(batch->targets.end(), ids.begin() + 1, ids.end());
  ++batch->sequences;
  return Status::Ok();
}

Status TokenSource::AppendDrawn(size_t number, int64_t drawn, TokenBatch* batch) const {
  const Corpus& corpus = corpora_[number];
  const int64_t slack = corpus.train_end - 1 - corpus.windows * sequence_;
  const uint64_t offsets = static_cast<uint64_t>(std::min(slack, sequence_ - 1)) + 1;
  uint64_t stream = RandomKey(seed_, kEpochStream);
  if (corpora_.size() > 1) stream = RandomKey(stream, number);
  const uint64_t key = RandomKey(stream, static_cast<uint64_t>(drawn / corpus.windows));
  const auto offset = static_cast<int64_t>(RandomBelow(key, offsets));
  const Permutation order(key, static_cast<uint64_t>(corpus.windows));
  const auto window = static_cast<int64_t>(order(static_cast<uint64_t>(drawn % corpus.windows)));
  return Append(*corpus.tokens, offset + window * sequence_, batch);
}

Status TokenSource::TrainBatch(int64_t step, int64_t number, TokenBatch* batch) const {
  MF_CHECK(step >= 1 && number >= 0 && number < micro_batches_);
  *batch = TokenBatch{};
  batch->length = static_cast<size_t>(sequence_);
  const MixtureOrder mixture(RandomKey(seed_, kMixtureStream), shares_);
  const int64_t first = ((step - 1) * micro_batches_ + number) * batch_;
  for (int64_t drawn = first; drawn < first + batch_; ++drawn) {
    const MixtureOrder::Place place = mixture.At(drawn);
    MF_RETURN_IF_ERROR(AppendDrawn(place.corpus, place.number, batch));
  }
  return Status::Ok();
}

Status TokenSource::EvalBatch(int64_t begin, int64_t count, TokenBatch* batch) const {
  MF_CHECK(begin >= 0 && count >= 0 && begin + count <= eval_sequences_);
  *batch = TokenBatch{};
  batch->length = static_cast<size_t>(sequence_);
  int64_t before = 0;  // of the corpora before
  for (const Evaluation& evaluation : evaluations_) {
    const Range& of = evaluation.of;
    const int64_t from = std::max(begin, before);
    const int64_t to = std::min(begin + count, before + evaluation.sequences);
    if (from < to) {
      const int64_t windows = WindowsIn(of.size(), sequence_);
      const Permutation order(RandomKey(seed_, kEvalStream), static_cast<uint64_t>(windows));
      for (int64_t i = from - before; i < to - before; ++i) {
        const auto window = static_cast<int64_t>(order(static_cast<uint64_t>(i)));
        MF_RETURN_IF_ERROR(Append(*of.tokens, of.begin + window * sequence_, batch));
      }
    }
    before += evaluation.sequences;
  }
  return Status::Ok();
}

int64_t TokenSource::train_tokens() const {
  int64_t tokens = 0;
  for (const Corpus& corpus : corpora_) tokens += corpus.train_end;
  return tokens;
}

int64_t TokenSource::validation_tokens() const {
  int64_t tokens = 0;
  for (const Evaluation& evaluation : evaluations_) tokens += evaluation.of.size();
  return tokens;
}

std::vector<TokenSource::Share> TokenSource::shares() const {
  std::vector<Share> shares;
  for (size_t i = 0; i < corpora_.size(); ++i) {
    const double part = static_cast<double>(shares_[i]) / static_cast<double>(MixtureOrder::kBlock);
    shares.push_back(
        {corpora_[i].path, corpora_[i].train_end, corpora_[i].windows * sequence_, part});
  }
  return shares;
}

std::string TokenSource::Digest() const {
  Sha256 hash;
  const auto add = [&hash](const Tokens& tokens, int64_t begin, int64_t end) {
    hash.Update("tokens " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                tokens.Digest() + "\n");
  };
  for (size_t i = 0; i < corpora_.size(); ++i) {
    if (corpora_.size() > 1) {
      hash.Update(std::to_string(shares_[i]) + " of " + std::to_string(MixtureOrder::kBlock) +
                  " are ");
    }
    add(*corpora_[i].tokens, 0, corpora_[i].train_end);
  }
  for (const Evaluation& evaluation : evaluations_) {
    add(*evaluation.of.tokens, evaluation.of.begin, evaluation.of.end);
  }
  return hash.Hex();
}

Status TokenSource::SaveDigests() const {
  DigestStore store;
  for (const Corpus& corpus : corpora_) corpus.tokens->AddTo(&store);
  if (validation_ != nullptr) validation_->AddTo(&store);
  return store.empty() || digests_.empty() ? Status::Ok() : store.Save(digests_);
}

}  // namespace mf
