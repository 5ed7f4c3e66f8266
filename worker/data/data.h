// Which tokens a micro-batch holds: a pure function of (data, configuration, step, number), so that
// any worker can compute any micro-batch and a resumed run sees the same data.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "worker/config/config.h"
#include "worker/data/batch_source.h"
#include "worker/data/tokens.h"

namespace mf {

/// A pseudo-random permutation of [0, size) that needs no memory: a Feistel network over the next
/// power of four, walked along its cycle until it falls inside.
class Permutation {
 public:
  Permutation(uint64_t key, uint64_t size);  // size >= 1
  uint64_t operator()(uint64_t index) const;

 private:
  uint64_t key_, size_;
  int half_bits_ = 0;
};

/// Training sequences are drawn without replacement: in every epoch the training tokens are cut
/// into windows of `sequence` tokens, beginning at an offset of the epoch's own, and the windows
/// are visited in a permutation of the epoch's own. So every token is seen once per epoch (up to a
/// window at the ends), in other company each time: random offsets alone would leave out 1/e of the
/// text while repeating other parts.
class TokenSource final : public BatchSource {
 public:
  /// `validation` is empty, or the path of held-out data; then all of `data` is trained on.
  /// Otherwise the last data.validation_ratio of the tokens are held out.
  static Result<std::unique_ptr<TokenSource>> Open(const Config& config, const std::string& data,
                                                   const std::string& validation = "");

  /// Micro-batch `number` in [0, micro_batches) of `step` in 1..steps: train.batch sequences.
  Status TrainBatch(int64_t step, int64_t number, TokenBatch* batch) const override;

  /// Sequences of one evaluation: train.eval_batches, fewer if the held-out data has fewer windows,
  /// 0 if nothing is held out.
  int64_t eval_sequences() const override { return eval_sequences_; }
  /// Evaluation sequences [begin, begin + count), the same ones every time.
  Status EvalBatch(int64_t begin, int64_t count, TokenBatch* batch) const override;

  int64_t train_tokens() const { return train_end_; }
  int64_t validation_tokens() const { return validation_end_ - validation_begin_; }

  /// Identifies the data: sizes, the cut, and 64 pages of each part. The same for text and for a
  /// .bin of the same tokens.
  std::string Digest() const;

 private:
  TokenSource() = default;
  Status CheckSizes(const std::string& data, const std::string& validation) const;
  /// Appends the sequence whose first input is token `begin`.
  Status Append(const Tokens& tokens, int64_t begin, TokenBatch* batch) const;

  int64_t sequence_ = 0, batch_ = 0, micro_batches_ = 0;
  uint64_t seed_ = 0;
  std::shared_ptr<const Tokens> train_;       // tokens [0, train_end_)
  std::shared_ptr<const Tokens> validation_;  // tokens [validation_begin_, validation_end_)
  int64_t train_end_ = 0;
  int64_t validation_begin_ = 0, validation_end_ = 0;
  int64_t windows_ = 0;  // per epoch
  int64_t eval_sequences_ = 0;
};

}  // namespace mf
