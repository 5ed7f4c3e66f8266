// A model of SentencePiece (Kudo and Richardson, EMNLP 2018), unigram or BPE, by its own library.
#pragma once

#include <memory>
#include <string>

#include "common/base/status.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

/// kInvalid, beginning with `name`, if the content is no model.
Result<std::shared_ptr<const Tokenizer>> MakeSentencePiece(std::string content,
                                                           const std::string& name);

}  // namespace mf
