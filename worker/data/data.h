// Which tokens a micro-batch holds: a pure function of (data, configuration, step, number), so that
// any worker can compute any micro-batch and a resumed run sees the same data.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/config/config.h"
#include "worker/data/batch_source.h"
#include "worker/data/mixture.h"
#include "worker/data/permutation.h"
#include "worker/data/tokens.h"

namespace mf {

/// Training sequences are drawn without replacement: in every epoch the training tokens are cut
/// into windows of `sequence` tokens, beginning at an offset of the epoch's own, and the windows
/// are visited in a permutation of the epoch's own. So every token is seen once per epoch (up to a
/// window at the ends), in other company each time: random offsets alone would leave out 1/e of the
/// text while repeating other parts. Of several corpora (mixture.h) each is drawn from in this way,
/// with epochs of its own.
class TokenSource final : public BatchSource {
 public:
  /// Where a run writes; empty: nowhere. Neither may be read as data, and what was found out about
  /// large files is kept in `out`.
  struct Places {
    std::string out, export_path;
    /// What is read in the place of a path: ids that were made of it (text_cache.h). None: the
    /// path.
    std::function<Result<std::string>(const std::string& path)> ids_of = {};
  };
  /// `data` is a path as of Tokens::Open, or a mixture of several. `validation` is empty, or the
  /// path of held-out data; then all of `data` is trained on, and a file that both have is warned
  /// of. Otherwise the last data.validation_ratio of the tokens of each corpus are held out.
  /// kInvalid as of Tokens::Open and ReadMixture, and for data that is too short.
  static Result<std::unique_ptr<TokenSource>> Open(const Config& config, const std::string& data,
                                                   const std::string& validation,
                                                   const Places& places);
  static Result<std::unique_ptr<TokenSource>> Open(const Config& config, const std::string& data,
                                                   const std::string& validation = "") {
    return Open(config, data, validation, Places());
  }

  /// Micro-batch `number` in [0, micro_batches) of `step` in 1..steps: train.batch sequences.
  Status TrainBatch(int64_t step, int64_t number, TokenBatch* batch) const override;

  /// Sequences of one evaluation: train.eval_batches, fewer if the held-out data has fewer windows,
  /// 0 if nothing is held out.
  int64_t eval_sequences() const override { return eval_sequences_; }
  /// Evaluation sequences [begin, begin + count), the same ones every time.
  Status EvalBatch(int64_t begin, int64_t count, TokenBatch* batch) const override;

  int64_t train_tokens() const;
  int64_t validation_tokens() const;
  struct Share {
    std::string path;
    int64_t tokens = 0;
    int64_t tokens_per_epoch = 0;  // those that are trained on before any comes again
    double part = 1;               // of all sequences
  };
  /// By corpus; one, if `data` was no mixture.
  std::vector<Share> shares() const;

  /// Identifies the data: SHA-256 over all bytes of all files, how they are read, the cut, and the
  /// shares of a mixture.
  std::string Digest() const;
  /// Keeps what the next start with the same Places need not find out again. kFailed if it cannot
  /// be written; nothing depends on it.
  Status SaveDigests() const;

 private:
  struct Range {
    std::shared_ptr<const Tokens> tokens;
    int64_t begin = 0, end = 0;
    int64_t size() const { return end - begin; }
  };
  struct Corpus {
    std::string path;
    std::shared_ptr<const Tokens> tokens = {};  // [0, train_end) are trained on
    int64_t train_end = 0;
    int64_t windows = 0;  // per epoch
    Range held_out = {};
  };
  struct Evaluation {
    Range of;
    int64_t sequences = 0;
  };

  /// Opens tokens as a run does.
  using OpenTokens = std::function<Result<std::shared_ptr<const Tokens>>(const std::string& path)>;

  TokenSource() = default;
  Status AddCorpus(const MixturePart& part, const OpenTokens& open, double held_out);
  Status OpenValidation(const std::string& path, const OpenTokens& open);
  /// At most `most` sequences, shared out by weight.
  void SetEvaluation(int64_t most, const std::vector<double>& weights);
  /// What is said of data that is too short.
  std::string Needs() const;
  /// Appends the sequence whose first input is token `begin`.
  Status Append(const Tokens& tokens, int64_t begin, TokenBatch* batch) const;
  /// Appends sequence number `drawn` of a corpus.
  Status AppendDrawn(size_t number, int64_t drawn, TokenBatch* batch) const;

  std::string digests_;  // file of the DigestStore; empty: none
  int64_t sequence_ = 0, batch_ = 0, micro_batches_ = 0;
  uint64_t seed_ = 0;
  std::vector<Corpus> corpora_;
  std::vector<int64_t> shares_;                    // of MixtureOrder::kBlock, by corpus
  std::shared_ptr<const Tokens> validation_ = {};  // of --val
  std::vector<Evaluation> evaluations_;
  int64_t eval_sequences_ = 0;
};

}  // namespace mf
