// Bytes as characters: how the files of byte-level tokenizers write them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "worker/tokenizer/utf8.h"

namespace mf {

/// The characters that stand for bytes in the texts of tokens: printable ones for themselves, the
/// others, in their order, for those from 256 on (bytes_to_unicode of GPT-2's encoder.py).
class ByteAlphabet {
 public:
  ByteAlphabet() {
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      characters_[byte] = printable ? byte : next++;
      bytes_.emplace(characters_[byte], static_cast<char>(byte));
    }
  }
  std::string TextOf(uint8_t byte) const {
    std::string text;
    AppendUtf8(characters_[byte], &text);
    return text;
  }
  /// The bytes that a token's text stands for; nothing if a character of it stands for none.
  std::optional<std::string> BytesOf(std::string_view text) const {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      const Character next = CharacterAt(text, at);
      const auto found = bytes_.find(next.code);
      if (found == bytes_.end()) return std::nullopt;
      bytes += found->second;
      at += next.bytes;
    }
    return bytes;
  }

 private:
  std::array<uint32_t, 256> characters_{};
  std::unordered_map<uint32_t, char> bytes_;
};

}  // namespace mf
