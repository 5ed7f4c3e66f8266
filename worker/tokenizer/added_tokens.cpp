#include "worker/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "worker/tokenizer/utf8.h"

namespace mf {
namespace {

bool IsSpace(const Character& character) {
  return character.code != kNoCharacter && ClassOf(character.code) == CharacterClass::kSpace;
}

/// It stands between characters that are of no word.
bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(CharacterBefore(text, begin).code)) return false;
  return end == text.size() || !IsWordCharacter(CharacterAt(text, end).code);
}

}  // namespace

void AddedTokens::Add(AddedToken token) {
  std::vector<uint32_t>& same = by_first_[static_cast<uint8_t>(token.content[0])];
  const auto place = static_cast<uint32_t>(tokens_.size());
  const auto shorter = std::find_if(same.begin(), same.end(), [&](uint32_t other) {
    return tokens_[other].content.size() < token.content.size();
  });
  same.insert(shorter, place);
  tokens_.push_back(std::move(token));
}

const AddedToken* AddedTokens::LongestAt(std::string_view text, size_t at) const {
  for (const uint32_t place : by_first_[static_cast<uint8_t>(text[at])]) {
    if (text.substr(at).starts_with(tokens_[place].content)) return &tokens_[place];
  }
  return nullptr;
}

void AddedTokens::Split(
    std::string_view text,
    const std::function<void(std::string_view part, const AddedToken* token)>& use) const {
  size_t given = 0;  // bytes
  for (size_t at = 0; at < text.size();) {
    const AddedToken* const token = LongestAt(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    // What a token before it took along is not there any more.
    if (begin < given || (token->single_word && !StandsAlone(text, begin, end))) continue;
    while (token->lstrip && begin > given) {
      const Character before = CharacterBefore(text, begin);
      if (!IsSpace(before)) break;
      begin -= before.bytes;
    }
    while (token->rstrip && end < text.size()) {
      const Character behind = CharacterAt(text, end);
      if (!IsSpace(behind)) break;
      end += behind.bytes;
    }
    if (begin > given) use(text.substr(given, begin - given), nullptr);
    use(text.substr(begin, end - begin), token);
    given = end;
  }
  if (given < text.size()) use(text.substr(given), nullptr);
}

}  // namespace mf
