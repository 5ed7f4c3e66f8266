// GPT-2's cut of a text into words, which no merge crosses: what the regular expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (Radford et al. 2019, encoder.py of their release) finds, one match after the other. Every byte
// is in one word.
#pragma once

#include <cstddef>
#include <string_view>

namespace mf {

/// Bytes of the word that begins at `at`. REQUIRES: at < text.size().
size_t Gpt2WordAt(std::string_view text, size_t at);

}  // namespace mf
