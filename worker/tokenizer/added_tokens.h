// Tokens that stand beside a byte-pair model, such as <|endoftext|>: found in a text before it is
// cut into words, the longest first at each place, as Hugging Face's tokenizers do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace mf {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool single_word = false;  // not inside of a word
  bool lstrip = false;       // takes white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // is looked for in normalized text
  bool special = false;
};

class AddedTokens {
 public:
  void Add(AddedToken token);

  /// Gives the parts of a text in their order: of a token, or (nullptr) between two.
  void Split(std::string_view text,
             const std::function<void(std::string_view part, const AddedToken* token)>& use) const;

 private:
  const AddedToken* LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;                     // as they were added
  std::array<std::vector<uint32_t>, 256> by_first_{};  // places in tokens_, the longest first
};

}  // namespace mf
