#include "worker/data/data.h"

#include <algorithm>
#include <cmath>

#include "common/base/digest.h"
#include "common/base/random.h"

namespace mf {
namespace {

// Streams of random numbers under one seed; any distinct numbers.
constexpr uint64_t kEpochStream = 0x65706f6368;
constexpr uint64_t kEvalStream = 0x6576616c;

constexpr int kFeistelRounds = 6;  // four already pass for random (Luby and Rackoff); cheap enough

/// Windows of `sequence` tokens, each with the token after it, that fit into `tokens`.
int64_t WindowsIn(int64_t tokens, int64_t sequence) { return (tokens - 1) / sequence; }

void DigestTokens(const Tokens& tokens, int64_t begin, int64_t end, Sha256* hash) {
  constexpr int64_t kPages = 64, kPageTokens = 4096;
  const int64_t size = end - begin;
  hash->Update("tokens " + std::to_string(size) + "\n");
  std::vector<uint32_t> page;
  const int64_t last = std::max<int64_t>(size - kPageTokens, 0);
  for (int64_t i = 0; i < kPages; ++i) {
    page.assign(static_cast<size_t>(std::min(size, kPageTokens)), 0);
    const int64_t at = begin + last / (kPages - 1) * i + last % (kPages - 1) * i / (kPages - 1);
    // An id above the vocabulary counts for the digest too, and stops the run when it is used.
    (void)tokens.Copy(at, static_cast<int64_t>(page.size()), page.data()).ok();
    hash->Update(page.data(), page.size() * sizeof(page[0]));
  }
}

}  // namespace

Permutation::Permutation(uint64_t key, uint64_t size) : key_(key), size_(size) {
  MF_CHECK(size >= 1);
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  MF_CHECK((uint64_t{1} << (2 * half_bits_)) >= size);
}

uint64_t Permutation::operator()(uint64_t index) const {
  MF_CHECK(index < size_);
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << half_bits_) - 1);
  uint64_t value = index;
  do {
    uint32_t left = static_cast<uint32_t>(value >> half_bits_) & mask;
    uint32_t right = static_cast<uint32_t>(value) & mask;
    for (uint32_t round = 0; round < kFeistelRounds; ++round) {
      const uint32_t mixed = left ^ (Philox(key_, {right, round, 0, 0})[0] & mask);
      left = right;
      right = mixed;
    }
    value = (uint64_t{left} << half_bits_) | right;
  } while (value >= size_);
  return value;
}

Result<std::unique_ptr<TokenSource>> TokenSource::Open(const Config& config,
                                                       const std::string& data,
                                                       const std::string& validation) {
  std::unique_ptr<TokenSource> source(new TokenSource);
  source->sequence_ = config.model.sequence;
  source->batch_ = config.train.batch;
  source->micro_batches_ = config.train.micro_batches;
  source->seed_ = config.train.seed;
  MF_ASSIGN_OR_RETURN(source->train_, Tokens::Open(data, config.model.vocabulary));
  const int64_t size = source->train_->size();
  if (validation.empty()) {
    const double share = config.data.validation_ratio * static_cast<double>(size);
    source->train_end_ = size - static_cast<int64_t>(std::floor(share));
    source->validation_ = source->train_;
    source->validation_begin_ = source->train_end_;
    source->validation_end_ = size;
  } else {
    MF_ASSIGN_OR_RETURN(source->validation_, Tokens::Open(validation, config.model.vocabulary));
    source->train_end_ = size;
    source->validation_end_ = source->validation_->size();
  }
  MF_RETURN_IF_ERROR(source->CheckSizes(data, validation));
  // One window less than fit, where possible, leaves room for any offset below a window.
  const int64_t fit = WindowsIn(source->train_end_, source->sequence_);
  source->windows_ =
      std::max<int64_t>(1, (source->train_end_ - source->sequence_) / source->sequence_);
  MF_CHECK(source->windows_ <= fit);
  const int64_t held_out = source->validation_tokens();
  if (held_out > 0) {
    source->eval_sequences_ =
        std::min(config.train.eval_batches, WindowsIn(held_out, source->sequence_));
  }
  return source;
}

Status TokenSource::CheckSizes(const std::string& data, const std::string& validation) const {
  const int64_t needed = sequence_ + 1;  // the last token is only a target
  const std::string needs = "; one sequence of model.sequence = " + std::to_string(sequence_) +
                            " needs " + std::to_string(needed);
  if (train_end_ < needed) {
    return Status::Invalid(data + ": too short: " + std::to_string(train_end_) +
                           " tokens to train on" + needs);
  }
  if (validation_tokens() > 0 && validation_tokens() < needed) {
    const std::string tokens = std::to_string(validation_tokens());
    if (!validation.empty()) {
      return Status::Invalid(validation + ": too short: " + tokens + " tokens" + needs);
    }
    return Status::Invalid(data + ": too short: data.validation_ratio holds out " + tokens +
                           " tokens" + needs + " (0 holds out nothing)");
  }
  return Status::Ok();
}

Status TokenSource::Append(const Tokens& tokens, int64_t begin, TokenBatch* batch) const {
  std::vector<uint32_t> ids(static_cast<size_t>(sequence_) + 1);
  MF_RETURN_IF_ERROR(tokens.Copy(begin, sequence_ + 1, ids.data()));
  batch->inputs.insert(batch->inputs.end(), ids.begin(), ids.end() - 1);
  batch->targets.insert(batch->targets.end(), ids.begin() + 1, ids.end());
  ++batch->sequences;
  return Status::Ok();
}

Status TokenSource::TrainBatch(int64_t step, int64_t number, TokenBatch* batch) const {
  MF_CHECK(step >= 1 && number >= 0 && number < micro_batches_);
  *batch = TokenBatch{};
  batch->length = static_cast<size_t>(sequence_);
  const int64_t slack = train_end_ - 1 - windows_ * sequence_;
  const uint64_t offsets = static_cast<uint64_t>(std::min(slack, sequence_ - 1)) + 1;
  const int64_t first = ((step - 1) * micro_batches_ + number) * batch_;
  for (int64_t drawn = first; drawn < first + batch_; ++drawn) {
    const uint64_t key =
        RandomKey(RandomKey(seed_, kEpochStream), static_cast<uint64_t>(drawn / windows_));
    const auto offset = static_cast<int64_t>(RandomBelow(key, offsets));
    const Permutation order(key, static_cast<uint64_t>(windows_));
    const auto window = static_cast<int64_t>(order(static_cast<uint64_t>(drawn % windows_)));
    MF_RETURN_IF_ERROR(Append(*train_, offset + window * sequence_, batch));
  }
  return Status::Ok();
}

Status TokenSource::EvalBatch(int64_t begin, int64_t count, TokenBatch* batch) const {
  MF_CHECK(begin >= 0 && count >= 0 && begin + count <= eval_sequences_);
  *batch = TokenBatch{};
  batch->length = static_cast<size_t>(sequence_);
  const int64_t windows = WindowsIn(validation_tokens(), sequence_);
  const Permutation order(RandomKey(seed_, kEvalStream), static_cast<uint64_t>(windows));
  for (int64_t i = begin; i < begin + count; ++i) {
    const auto window = static_cast<int64_t>(order(static_cast<uint64_t>(i)));
    MF_RETURN_IF_ERROR(Append(*validation_, validation_begin_ + window * sequence_, batch));
  }
  return Status::Ok();
}

std::string TokenSource::Digest() const {
  Sha256 hash;
  DigestTokens(*train_, 0, train_end_, &hash);
  DigestTokens(*validation_, validation_begin_, validation_end_, &hash);
  return hash.Hex();
}

}  // namespace mf
