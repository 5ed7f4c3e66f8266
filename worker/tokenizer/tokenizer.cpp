#include "worker/tokenizer/tokenizer.h"

#include <utility>

#include "common/base/digest.h"
#include "common/base/input_file.h"
#include "worker/tokenizer/byte_bpe.h"
#include "worker/tokenizer/sentencepiece.h"
#include "worker/tokenizer/tokenizer_json.h"

namespace mf {
namespace {

constexpr size_t kFileMax = size_t{64} << 20;  // the largest that are used have 20 MB

/// Every byte is its own id; one more ends a text.
class Bytes final : public Tokenizer {
 public:
  Bytes() : Tokenizer("") {}
  std::string kind() const override { return "bytes"; }
  int64_t vocabulary() const override { return kBytesEndOfText + 1; }
  std::optional<uint32_t> end_of_text() const override { return kBytesEndOfText; }
  Status Encode(std::string_view text, std::vector<uint32_t>* ids) const override {
    for (const char c : text) ids->push_back(static_cast<uint8_t>(c));
    return Status::Ok();
  }
  std::string Decode(std::span<const uint32_t> ids) const override {
    std::string text;
    for (const uint32_t id : ids) {
      if (id < kBytesEndOfText) text += static_cast<char>(id);
    }
    return text;
  }
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Open(const std::string& path) {
  if (path.empty()) return Make("", "");
  MF_ASSIGN_OR_RETURN(std::string content, ReadInput(path, "the tokenizer", kFileMax));
  if (content.empty()) return Status::Invalid(path + ": empty; give a tokenizer");
  return Make(std::move(content), path);
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Make(std::string content,
                                                         const std::string& name) {
  if (content.empty()) return std::shared_ptr<const Tokenizer>(std::make_shared<Bytes>());
  if (content[content.find_first_not_of(" \t\r\n") % content.size()] != '{') {
    return MakeSentencePiece(std::move(content), name);
  }
  MF_ASSIGN_OR_RETURN(ByteBpe::Parts parts, ReadTokenizerJson(content, name));
  return std::shared_ptr<const Tokenizer>(
      std::make_shared<ByteBpe>(std::move(content), std::move(parts)));
}

std::string Tokenizer::Digest() const { return content_.empty() ? "" : Sha256Hex(content_); }

}  // namespace mf
