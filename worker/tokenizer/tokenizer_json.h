// tokenizer.json of Hugging Face's tokenizers: what of it is a byte-level BPE of the kinds of
// GPT-2, GPT-NeoX and Pythia is read; everything else is refused by its name.
#pragma once

#include <string>

#include "common/base/status.h"
#include "worker/tokenizer/byte_bpe.h"

namespace mf {

/// kInvalid, beginning with `name`, if the content is no such file.
Result<ByteBpe::Parts> ReadTokenizerJson(const std::string& content, const std::string& name);

}  // namespace mf
