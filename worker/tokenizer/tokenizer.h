// Text to token ids and back. A tokenizer is a file that its maker trained and whose kind is seen
// from its content; without a file every byte is a token. A new kind is one file here and a line in
// tokenizer.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace mf {

inline constexpr uint32_t kBytesEndOfText = 256;  // where every byte is a token

/// Immutable: any number of threads may use one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// What `path` holds: a model of SentencePiece, or a tokenizer.json of Hugging Face with a
  /// byte-level BPE; empty: the bytes. kInvalid, naming the file, for anything else, for a
  /// tokenizer.json that asks for what is not built here, by its name, and for a damaged one.
  static Result<std::shared_ptr<const Tokenizer>> Open(const std::string& path);
  /// The same from the content of such a file; `name` stands for it in messages. Empty: the bytes.
  static Result<std::shared_ptr<const Tokenizer>> Make(std::string content,
                                                       const std::string& name);

  /// "bytes", "SentencePiece" or "byte-level BPE".
  virtual std::string kind() const = 0;
  /// Ids are in [0, vocabulary()).
  virtual int64_t vocabulary() const = 0;
  /// The id that ends a document, and stands between two; nothing if the tokenizer has none.
  virtual std::optional<uint32_t> end_of_text() const = 0;

  /// Appends the ids of `text`, which may be any bytes. kInvalid if the tokenizer has no id for
  /// some of it.
  virtual Status Encode(std::string_view text, std::vector<uint32_t>* ids) const = 0;
  /// The text that ids stand for. The end of a text is what the tokenizer writes for it, which may
  /// be nothing; ids at or above the vocabulary are nothing.
  virtual std::string Decode(std::span<const uint32_t> ids) const = 0;

  /// The file's content; empty for bytes.
  const std::string& content() const { return content_; }
  /// SHA-256 of the content in hex; empty for bytes.
  std::string Digest() const;

 protected:
  explicit Tokenizer(std::string content) : content_(std::move(content)) {}

 private:
  const std::string content_;
};

}  // namespace mf
