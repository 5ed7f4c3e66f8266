// Is this text? Bytes are tokens, so any file could be trained on; one that is no text is nearly
// always a mistake. All of a file is looked at before anything is said, so that a single bad byte
// in a crawl is told with all the others, and what the file is instead is named where it is known.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mf {

/// What a file is that begins like this, and what to do with it: "gzip-compressed; unpack it".
/// Empty for what could be text or token ids.
std::string KnownFormat(std::string_view head);

/// A file, piece by piece.
class TextCheck {
 public:
  void Update(const char* data, size_t bytes);
  /// After the last piece. Empty for text; otherwise how it is not, in words with positions: a NUL
  /// byte never is text, and of other bytes a tenth may be control characters or not UTF-8: text in
  /// Latin-1 passes, compressed data does not.
  std::string Fault();
  /// Of the bytes that make the fault; 0 for text.
  uint64_t count() const;

 private:
  void Look(std::string_view text, bool last);
  std::string Encoding() const;

  uint64_t bytes_ = 0;                // looked at
  std::array<uint64_t, 4> nul_at_{};  // NUL bytes by position modulo 4
  uint64_t strange_ = 0;              // no character of a text, and no NUL
  uint64_t first_strange_ = 0;        // its position
  std::vector<uint64_t> first_nuls_;  // positions
  std::string head_;                  // the first bytes
  std::string pending_;               // a character that the next piece may complete
};

}  // namespace mf
