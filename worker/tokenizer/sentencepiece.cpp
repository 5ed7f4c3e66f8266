#include "worker/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <utility>
#include <vector>

namespace mf {
namespace {

class SentencePiece final : public Tokenizer {
 public:
  SentencePiece(std::string content,
                std::unique_ptr<const sentencepiece::SentencePieceProcessor> model)
      : Tokenizer(std::move(content)), model_(std::move(model)) {}

  std::string kind() const override { return "SentencePiece"; }
  int64_t vocabulary() const override { return model_->GetPieceSize(); }
  std::optional<uint32_t> end_of_text() const override {
    const int id = model_->eos_id();
    return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
  }
  Status Encode(std::string_view text, std::vector<uint32_t>* ids) const override {
    std::vector<int> found;
    const auto status = model_->Encode({text.data(), text.size()}, &found);
    if (!status.ok()) return Status::Invalid(status.ToString());
    ids->insert(ids->end(), found.begin(), found.end());
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
  const std::unique_ptr<const sentencepiece::SentencePieceProcessor> model_;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> MakeSentencePiece(std::string content,
                                                           const std::string& name) {
  auto model = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = model->LoadFromSerializedProto({content.data(), content.size()});
  if (!status.ok()) {
    return Status::Invalid(name + ": neither a tokenizer.json nor a model of SentencePiece");
  }
  return std::shared_ptr<const Tokenizer>(
      std::make_shared<SentencePiece>(std::move(content), std::move(model)));
}

}  // namespace mf
