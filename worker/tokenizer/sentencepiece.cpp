#include "worker/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <utility>
#include <vector>

#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

using Model = sentencepiece::SentencePieceProcessor;

// The library's time for a character grows with the text: a long one is encoded in parts of about
// so many bytes, longer than nearly all lines.
constexpr size_t kPartBytes = 1024;
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581: a space in a piece

std::vector<int> IdsOf(const Model& model, std::string_view text) {
  std::vector<int> ids;
  const auto status = model.Encode({text.data(), text.size()}, &ids);
  if (!status.ok()) ids.clear();
  return ids;
}

/// Without the space between two words both have the ids that they have with it: no piece reaches
/// over a space, and a text begins with one that is added.
bool WordsStandAlone(const Model& model) {
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    std::string_view piece = model.IdToPiece(id);
    while (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
    if (piece.find(kSpace) != std::string_view::npos) return false;
  }
  for (const std::string_view second : {"b", "the", "7", "Q."}) {
    std::vector<int> apart = IdsOf(model, "a");
    const std::vector<int> more = IdsOf(model, second);
    apart.insert(apart.end(), more.begin(), more.end());
    if (IdsOf(model, "a " + std::string(second)) != apart) return false;
  }
  return true;
}

/// Where the first part of `text` ends, at a single space between two ordinary characters; or at
/// its end.
size_t EndOfPart(std::string_view text) {
  for (size_t at = kPartBytes; at + 1 < text.size(); ++at) {
    if (text[at] == ' ' && IsOrdinary(text[at - 1]) && IsOrdinary(text[at + 1])) return at;
  }
  return text.size();
}

class SentencePiece final : public Tokenizer {
 public:
  SentencePiece(std::string content, std::unique_ptr<const Model> model)
      : Tokenizer(std::move(content)),
        model_(std::move(model)),
        words_stand_alone_(WordsStandAlone(*model_)) {}

  std::string kind() const override { return "SentencePiece"; }
  int64_t vocabulary() const override { return model_->GetPieceSize(); }
  std::optional<uint32_t> end_of_text() const override {
    const int id = model_->eos_id();
    return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
  }
  Status Encode(std::string_view text, std::vector<uint32_t>* ids) const override {
    std::vector<int> found;
    for (bool more = true; more;) {
      const size_t end = words_stand_alone_ ? EndOfPart(text) : text.size();
      const auto status = model_->Encode({text.data(), end}, &found);
      if (!status.ok()) return Status::Invalid(status.ToString());
      ids->insert(ids->end(), found.begin(), found.end());
      more = end < text.size();
      if (more) text.remove_prefix(end + 1);
    }
    return Status::Ok();
  }
  std::string Decode(std::span<const uint32_t> ids) const override {
    std::vector<int> known;
    for (const uint32_t id : ids) {
      if (id < static_cast<uint64_t>(vocabulary())) known.push_back(static_cast<int>(id));
    }
    std::string text;
    const auto status = model_->Decode(known, &text);
    MF_CHECK(status.ok());  // it refuses only ids that it does not have
    return text;
  }

 private:
  const std::unique_ptr<const Model> model_;
  const bool words_stand_alone_;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> MakeSentencePiece(std::string content,
                                                           const std::string& name) {
  auto model = std::make_unique<Model>();
  const auto status = model->LoadFromSerializedProto({content.data(), content.size()});
  if (!status.ok()) {
    return Status::Invalid(name + ": neither a tokenizer.json nor a model of SentencePiece");
  }
  return std::shared_ptr<const Tokenizer>(
      std::make_shared<SentencePiece>(std::move(content), std::move(model)));
}

}  // namespace mf
