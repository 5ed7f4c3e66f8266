#include "worker/tokenizer/utf8.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

namespace mf {
namespace {

constexpr uint32_t kPlanes = 0x110000;

CharacterClass Classify(uint32_t code) {
  switch (code) {  // White_Space: not a category, and it hardly ever changes
    case 0x09:
    case 0x0A:
    case 0x0B:
    case 0x0C:
    case 0x0D:
    case 0x20:
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
      return CharacterClass::kSpace;
    default:
      if (code >= 0x2000 && code <= 0x200A) return CharacterClass::kSpace;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::kNumber;
    default:
      return CharacterClass::kOther;
  }
}

/// Of the first plane, where nearly all text lies.
const std::array<CharacterClass, 0x10000>& FirstPlane() {
  static const auto* const kClasses = [] {
    auto* classes = new std::array<CharacterClass, 0x10000>;
    for (uint32_t code = 0; code < classes->size(); ++code) (*classes)[code] = Classify(code);
    return classes;
  }();
  return *kClasses;
}

}  // namespace

Character CharacterAt(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  const uint32_t lead = byte(at);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (bytes == 0 || at + bytes > text.size()) return {kNoCharacter, 1};
  uint32_t code = lead & (0x7F >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {kNoCharacter, 1};
    code = code << 6 | (byte(at + i) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // shorter forms exist below
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kLeast[bytes] || code >= kPlanes || surrogate) return {kNoCharacter, 1};
  return {code, bytes};
}

Character CharacterBefore(std::string_view text, size_t at) {
  for (size_t bytes = 1; bytes <= 4 && bytes <= at; ++bytes) {
    const Character found = CharacterAt(text, at - bytes);
    if (found.bytes == bytes && found.code != kNoCharacter) return found;
  }
  return {kNoCharacter, 1};
}

CharacterClass ClassOf(uint32_t code) {
  if (code < 0x10000) return FirstPlane()[code];
  return code >= kPlanes ? CharacterClass::kOther : Classify(code);
}

bool IsWordCharacter(uint32_t code) {
  if (code >= kPlanes) return false;
  if (code == 0x200C || code == 0x200D) return true;  // they join characters of a word
  const auto in = [&](uint32_t first, uint32_t last) { return code >= first && code <= last; };
  // Letters in circles and squares are symbols, and alphabetic.
  if (in(0x24B6, 0x24E9) || in(0x1F130, 0x1F149) || in(0x1F150, 0x1F169) || in(0x1F170, 0x1F189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return ClassOf(code) == CharacterClass::kLetter;
  }
}

void AppendUtf8(uint32_t code, std::string* text) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
  text->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

std::string ToNfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t end = at;  // of well-formed text
    bool ascii = true;
    while (end < text.size()) {
      const Character next = CharacterAt(text, end);
      if (next.code == kNoCharacter) break;
      ascii &= next.code < 0x80;
      end += next.bytes;
    }
    const std::string_view part = text.substr(at, end - at);
    if (ascii) {
      out += part;
    } else {
      utf8proc_uint8_t* normal = nullptr;
      const utf8proc_ssize_t bytes =
          utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(part.data()),
                       static_cast<utf8proc_ssize_t>(part.size()), &normal,
                       static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(normal, &std::free);
      if (bytes < 0) throw std::bad_alloc();  // it is well-formed: nothing else can fail
      out.append(reinterpret_cast<const char*>(normal), static_cast<size_t>(bytes));
    }
    if (end < text.size()) out += text[end++];
    at = end;
  }
  return out;
}

}  // namespace mf
