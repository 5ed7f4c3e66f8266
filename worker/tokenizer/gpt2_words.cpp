#include "worker/tokenizer/gpt2_words.h"

#include "worker/tokenizer/utf8.h"

namespace mf {
namespace {

CharacterClass ClassAt(std::string_view text, size_t at, size_t* bytes) {
  const Character next = CharacterAt(text, at);
  *bytes = next.bytes;
  return ClassOf(next.code);
}

/// 's, 't, 're, 've, 'm, 'll, 'd: 0 if there is none.
size_t ContractionAt(std::string_view text, size_t at) {
  if (text[at] != '\'') return 0;
  const std::string_view rest = text.substr(at + 1, 2);
  if (rest.starts_with("re") || rest.starts_with("ve") || rest.starts_with("ll")) return 3;
  return !rest.empty() && std::string_view("stmd").find(rest[0]) != std::string_view::npos ? 2 : 0;
}

/// A run of white space, without its last character if something else follows it: that one may
/// belong to the next word. A single one stays.
size_t SpacesAt(std::string_view text, size_t at) {
  size_t end = at, last = at, bytes = 0;
  while (end < text.size() && ClassAt(text, end, &bytes) == CharacterClass::kSpace) {
    last = end;
    end += bytes;
  }
  return (end == text.size() || last == at ? end : last) - at;
}

}  // namespace

size_t Gpt2WordAt(std::string_view text, size_t at) {
  if (const size_t contraction = ContractionAt(text, at); contraction > 0) return contraction;
  size_t end = at, bytes = 0;
  if (text[at] == ' ' && at + 1 < text.size()) ++end;
  const CharacterClass first = ClassAt(text, end, &bytes);
  if (first == CharacterClass::kSpace) return SpacesAt(text, at);
  do {
    end += bytes;
  } while (end < text.size() && ClassAt(text, end, &bytes) == first);
  return end - at;
}

}  // namespace mf
