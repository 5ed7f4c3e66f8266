#include "worker/tokenizer/byte_bpe.h"

#include <atomic>
#include <utility>

#include "worker/tokenizer/gpt2_words.h"
#include "worker/tokenizer/utf8.h"

namespace mf {

ByteBpe::ByteBpe(std::string content, Parts parts)
    : Tokenizer(std::move(content)), parts_(std::move(parts)), serial_([] {
        static std::atomic<uint64_t> made{0};
        return made.fetch_add(1) + 1;
      }()) {}

WordCache& ByteBpe::Cache() const {
  thread_local WordCache cache;
  thread_local uint64_t owner = 0;
  if (std::exchange(owner, serial_) != serial_) cache.Clear();
  return cache;
}

Status ByteBpe::Encode(std::string_view text, std::vector<uint32_t>* ids) const {
  WordCache& cache = Cache();
  parts_.added.Split(text, [&](std::string_view part, const AddedToken* token) {
    if (token != nullptr) {
      ids->push_back(token->id);
    } else if (parts_.nfc) {
      EncodeNormalized(ToNfc(part), cache, ids);
    } else {
      EncodeNormalized(part, cache, ids);
    }
  });
  return Status::Ok();
}

void ByteBpe::EncodeNormalized(std::string_view text, WordCache& cache,
                               std::vector<uint32_t>* ids) const {
  parts_.added_normalized.Split(text, [&](std::string_view part, const AddedToken* token) {
    if (token != nullptr) {
      ids->push_back(token->id);
    } else if (parts_.add_prefix_space && part[0] != ' ') {
      EncodeWords(' ' + std::string(part), cache, ids);
    } else {
      EncodeWords(part, cache, ids);
    }
  });
}

void ByteBpe::EncodeWords(std::string_view text, WordCache& cache,
                          std::vector<uint32_t>* ids) const {
  std::vector<uint32_t> word_ids;
  for (size_t at = 0; at < text.size();) {
    const std::string_view word = text.substr(at, Gpt2WordAt(text, at));
    at += word.size();
    if (cache.Find(word, ids)) continue;
    word_ids.clear();
    for (const char c : word) word_ids.push_back(parts_.of_byte[static_cast<uint8_t>(c)]);
    parts_.pairs.Merge(&word_ids);
    cache.Keep(word, word_ids);
    ids->insert(ids->end(), word_ids.begin(), word_ids.end());
  }
}

std::string ByteBpe::Decode(std::span<const uint32_t> ids) const {
  std::string text;
  for (const uint32_t id : ids) {
    if (id < parts_.texts.size()) text += parts_.texts[id];
  }
  return text;
}

}  // namespace mf
