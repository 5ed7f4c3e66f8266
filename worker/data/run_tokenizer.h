// Which tokenizer a run has: the one that is named, or the one whose ids its shards hold.
#pragma once

#include <string>

#include "common/base/status.h"
#include "worker/config/config.h"

namespace mf {

/// Fills in config->tokenizer: the file of data.tokenizer, or, where `data` is shards of `worker
/// prepare`, the one that lies beside them, or, without either, none: bytes. What is there already,
/// of a run that is repeated, stays if data.tokenizer is not given. `data` may be a mixture.
/// kInvalid for a file that is no tokenizer, one that the shards were not made with, and a
/// model.vocabulary that is too small for it.
Status ResolveTokenizer(const std::string& data, Config* config);

}  // namespace mf
