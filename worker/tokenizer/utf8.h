// Characters of UTF-8, and what Unicode says of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mf {

/// The character at a place of a text. Where the text is no UTF-8 it is one byte long and of no
/// class, and its code is kNoCharacter.
struct Character {
  uint32_t code = 0;
  size_t bytes = 1;
};
inline constexpr uint32_t kNoCharacter = 0xFFFFFFFF;

/// REQUIRES: at < text.size().
Character CharacterAt(std::string_view text, size_t at);
/// The character that ends before `at`. REQUIRES: at > 0.
Character CharacterBefore(std::string_view text, size_t at);

enum class CharacterClass : uint8_t { kOther, kLetter, kNumber, kSpace };

/// \p{L}, \p{N} and White_Space of Unicode.
CharacterClass ClassOf(uint32_t code);
/// Alphabetic, a mark, a decimal number, a connector or a joiner: \w of Unicode's regular
/// expressions (UTS 18, annex C).
bool IsWordCharacter(uint32_t code);

void AppendUtf8(uint32_t code, std::string* text);

/// Normalization Form C; bytes that are no UTF-8 stay as they are.
std::string ToNfc(std::string_view text);

}  // namespace mf
