// A byte-level BPE as GPT-2, GPT-NeoX and Pythia have it (Radford et al. 2019), read from a
// tokenizer.json of Hugging Face's tokenizers. Ids are those that their library gives without
// special tokens around a text; its settings of padding and truncation are no part of a tokenizer
// and are not looked at. Bytes that are no UTF-8, which that library does not take, are encoded as
// any other bytes, so that every text comes back as it was, unless the file normalizes it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizer/added_tokens.h"
#include "worker/tokenizer/byte_pairs.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

class ByteBpe final : public Tokenizer {
 public:
  /// What a tokenizer.json says (tokenizer_json.h).
  struct Parts {
    std::vector<std::string> texts;       // by id; empty where there is none
    std::array<uint32_t, 256> of_byte{};  // the token of each byte alone
    BytePairs pairs;
    AddedTokens added, added_normalized;  // looked for before and after normalizing
    bool nfc = false;
    bool add_prefix_space = false;  // before each part between added tokens
    std::optional<uint32_t> end_of_text;
  };
  ByteBpe(std::string content, Parts parts);

  std::string kind() const override { return "byte-level BPE"; }
  int64_t vocabulary() const override { return std::ssize(parts_.texts); }
  std::optional<uint32_t> end_of_text() const override { return parts_.end_of_text; }
  Status Encode(std::string_view text, std::vector<uint32_t>* ids) const override;
  std::string Decode(std::span<const uint32_t> ids) const override;

 private:
  void EncodeNormalized(std::string_view text, WordCache& cache, std::vector<uint32_t>* ids) const;
  void EncodeWords(std::string_view text, WordCache& cache, std::vector<uint32_t>* ids) const;
  WordCache& Cache() const;

  const Parts parts_;
  const uint64_t serial_;  // of all that were ever made: whose words a thread's cache has
};

}  // namespace mf
