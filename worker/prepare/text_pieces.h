// The documents of text files and of files of JSON lines, in pieces small enough to be worked on
// beside each other.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "worker/data/text_check.h"
#include "worker/prepare/byte_stream.h"

namespace mf {

/// A document, or of a long text a part (worker/tokenizer/text_cuts.h): as it stands in the file,
/// or a line of JSON, whole.
struct TextPiece {
  std::string bytes;
  bool json = false;
  bool begins = true, ends = true;  // a document
  size_t file = 0;                  // its place in the list
  uint64_t line = 0;                // of JSON, from 1
};

/// The file's name, without what says that it is packed, ends in .jsonl, .ndjson or .json, in any
/// case.
bool IsJsonLines(const std::string& path);

/// Where a text stops being JSON, for people.
std::string WhyNoJson(const std::string& text);

inline constexpr std::string_view kUsualField = "text";

/// kInvalid if a `field` is named, and none of the files has lines of JSON.
Status CheckField(const std::string& field, const std::vector<std::string>& paths);

/// A line of JSON becomes the document in its `field`, or in kUsualField if that is empty.
/// kInvalid, naming file and line, if it has none.
Status ReadJsonLine(const std::string& path, const std::string& field, TextPiece* piece);

class TextPieces {
 public:
  /// `binary`: bytes of text files are taken as they are, though they are no text.
  TextPieces(std::vector<std::string> paths, bool binary)
      : paths_(std::move(paths)), binary_(binary) {}

  /// The next one; nothing after the last. kInvalid, naming the file, for what is no text, and as
  /// of ByteStream.
  Result<std::optional<TextPiece>> Next();
  /// Bytes of files that were read, as they lie on the disk.
  uint64_t taken() const { return taken_before_ + (stream_ == nullptr ? 0 : stream_->taken()); }
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  Result<bool> Fill();
  Result<std::optional<TextPiece>> NextLine();
  Result<std::optional<TextPiece>> NextText();
  Status EndFile();
  TextPiece Take(size_t bytes, bool ends);

  const std::vector<std::string> paths_;
  const bool binary_;
  size_t file_ = 0;  // the one that is read, or comes next
  std::unique_ptr<ByteStream> stream_;
  bool json_ = false;
  std::string buffer_;  // read, and not given out
  size_t given_ = 0;    // bytes of it that were
  bool begins_ = true;  // the next piece begins a document
  uint64_t line_ = 0;
  uint64_t taken_before_ = 0;
  TextCheck check_;
};

}  // namespace mf
