#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

/// Behind the last end of a line; 0: there is none.
size_t AfterLine(std::string_view text) {
  for (size_t at = text.size() - 1; at >= 2; --at) {
    if (text[at - 1] == '\n' && IsOrdinary(text[at - 2]) && IsOrdinary(text[at])) return at;
  }
  return 0;
}

/// Before the last space, which belongs to the word after it; 0: there is none.
size_t BeforeSpace(std::string_view text) {
  for (size_t at = text.size() - 2; at >= 1; --at) {
    if (text[at] == ' ' && IsOrdinary(text[at - 1]) && IsOrdinary(text[at + 1])) return at;
  }
  return 0;
}

/// At a place that is no better than others, but between characters.
size_t BetweenCharacters(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > text.size() - 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

size_t FirstPart(std::string_view text) {
  if (text.size() <= kTextPartBytes) return text.size();
  const std::string_view begin = text.substr(0, kTextPartBytes);
  if (const size_t cut = AfterLine(begin); cut > 0) return cut;
  if (const size_t cut = BeforeSpace(begin); cut > 0) return cut;
  return BetweenCharacters(begin);
}

Status EncodeParts(const Tokenizer& tokenizer, std::string_view text, std::vector<uint32_t>* ids) {
  while (!text.empty()) {
    const size_t part = FirstPart(text);
    MF_RETURN_IF_ERROR(tokenizer.Encode(text.substr(0, part), ids));
    text.remove_prefix(part);
  }
  return Status::Ok();
}

}  // namespace mf
