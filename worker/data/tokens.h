// A sequence of token ids from text files (bytes as tokens) or from a raw .bin file (mapped).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

inline constexpr uint32_t kEndOfText = 256;  // of the `bytes` tokenizer
inline constexpr int64_t kBytesVocabulary = 257;

/// The text of a file, or kInvalid if it is missing or binary.
Result<std::string> ReadTextFile(const std::string& path);

class Tokens {
 public:
  /// `path`: a text file (one document, no end-of-text); a directory of text files (recursive, by
  /// sorted path, names beginning with a dot left out, an end-of-text between documents); or raw
  /// little-endian ids in a file ending in .bin: u16, or u32 if `vocabulary` is above 65,536.
  /// kInvalid, naming the file, for what is missing, empty, binary or above the vocabulary.
  static Result<std::shared_ptr<const Tokens>> Open(const std::string& path, int64_t vocabulary);
  ~Tokens();
  Tokens(const Tokens&) = delete;
  Tokens& operator=(const Tokens&) = delete;

  int64_t size() const { return size_; }
  /// Copies ids [begin, begin + count), which must exist. kInvalid for one above the vocabulary:
  /// files too large to be checked when they are opened are checked here.
  Status Copy(int64_t begin, int64_t count, uint32_t* ids) const;

 private:
  Tokens() = default;
  Status ReadText(const std::string& path);
  Status ReadFolder(const std::string& path);
  Status MapBin(const std::string& path);
  void AppendBytes(const std::string& text);
  Status AboveVocabulary(int64_t position, uint32_t id) const;

  std::string path_;
  int64_t vocabulary_ = 0;
  int64_t size_ = 0;
  std::vector<uint16_t> text_;      // ids made from text
  const std::byte* map_ = nullptr;  // or the mapped .bin, ids of id_bytes_
  size_t map_bytes_ = 0;
  size_t id_bytes_ = 2;
};

}  // namespace mf
