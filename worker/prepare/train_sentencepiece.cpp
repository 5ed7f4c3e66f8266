#include "worker/prepare/train_sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "worker/data/data_files.h"
#include "worker/prepare/text_pieces.h"

namespace mf {
namespace {

constexpr size_t kLineMax = 4192;  // bytes; SentencePiece leaves longer ones out
constexpr unsigned kSeed = 1;      // of the lines that are drawn

/// The lines of all documents, as SentencePiece asks for them.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  Lines(std::vector<std::string> paths, std::string field)
      : pieces_(std::move(paths), /*binary=*/false), field_(std::move(field)) {
    Next();
  }
  bool done() const override { return done_; }
  void Next() override {
    do {
      if (at_ >= text_.size() && !NextPiece()) return;
      const size_t end = std::min(text_.find('\n', at_), text_.size());
      line_ = text_.substr(at_, std::min(end - at_, kLineMax));
      at_ = end + 1;
    } while (line_.empty());
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

  const Status& failure() const { return failure_; }

 private:
  bool NextPiece() {
    Result<std::optional<TextPiece>> piece = pieces_.Next();
    if (!piece.ok()) failure_ = piece.status();
    if (piece.ok() && piece.value().has_value()) {
      if (piece.value()->json) {
        failure_ = ReadJsonLine(pieces_.paths()[piece.value()->file], field_, &*piece.value());
      }
      text_ = std::move(piece.value()->bytes);
      at_ = 0;
    }
    done_ = !failure_.ok() || !piece.value().has_value();
    return !done_;
  }

  TextPieces pieces_;
  const std::string field_;
  std::string text_, line_;
  size_t at_ = 0;
  bool done_ = false;
  Status failure_;
};

/// The library says it by its own assertions and flags.
std::string WhyNot(const std::string& message) {
  if (message.find("sentences_.empty()") != std::string::npos) return "no text is in it";
  if (message.find("Vocabulary size too high") != std::string::npos) {
    const size_t most = message.rfind("<= ");
    if (most != std::string::npos) {
      const size_t end =
          std::min(message.find_first_not_of("0123456789", most + 3), message.size());
      return "there is text for at most " + message.substr(most + 3, end - most - 3) +
             " ids; give fewer by --vocabulary, or more text";
    }
  }
  if (message.find("smaller than required_chars") != std::string::npos) {
    return "it has more characters than that; give more ids by --vocabulary";
  }
  return message;
}

}  // namespace

Result<std::string> TrainSentencePiece(const SentencePieceOptions& options) {
  MF_ASSIGN_OR_RETURN(std::vector<std::string> paths,
                      FindAllDataFiles(options.data, {{"--out", options.out}}));
  MF_RETURN_IF_ERROR(CheckField(options.field, paths));
  sentencepiece::SetRandomGeneratorSeed(kSeed);
  Lines lines(std::move(paths), options.field);
  const std::unordered_map<std::string, std::string> settings = {
      {"vocab_size", std::to_string(options.vocabulary)},
      {"model_type", options.bpe ? "bpe" : "unigram"},
      {"num_threads", std::to_string(options.threads)},
      {"input_sentence_size", std::to_string(options.lines)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"minloglevel", "2"}};
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  MF_RETURN_IF_ERROR(lines.failure());
  if (status.ok()) return model;
  return Status::Invalid(options.data.front() + ": no tokenizer of " +
                         std::to_string(options.vocabulary) +
                         " ids can be trained on it: " + WhyNot(status.message()));
}

}  // namespace mf
