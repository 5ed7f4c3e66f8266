// A tokenizer trained on a text by SentencePiece's own trainer (Kudo and Richardson, EMNLP 2018;
// unigram: Kudo, ACL 2018; BPE: Sennrich et al., ACL 2016).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

struct SentencePieceOptions {
  std::string out = {};           // where the model will be: not in the data
  std::vector<std::string> data;  // as of Prepare()
  std::string field = {};         // see text_pieces.h
  int64_t vocabulary = 8000;
  bool bpe = false;            // otherwise unigram
  uint64_t lines = 1'000'000;  // drawn from the text, if it has more
  int threads = 1;
};

/// The model's file. Every text can be encoded and comes back: what has no piece is bytes, nothing
/// is normalized, no white space is dropped. kInvalid for a text that is too small for the
/// vocabulary, and as of TextPieces.
Result<std::string> TrainSentencePiece(const SentencePieceOptions& options);

}  // namespace mf
