// Where a long text may be cut so that its parts can be encoded by themselves: memory for encoding
// a text grows with it, and a corpus may be one document.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

/// Of ASCII, and neither white space nor a control.
inline bool IsOrdinary(char c) { return c > 0x20 && c < 0x7F; }

/// No part is longer.
inline constexpr size_t kTextPartBytes = size_t{1} << 20;

/// The length of the first part of `text`: all of it, unless it is longer than kTextPartBytes. Then
/// it ends where no word of GPT-2's and no character ends elsewhere than in the whole: behind the
/// last end of a line between two ordinary characters, or before the last space between two; where
/// there is none of them, between two characters. Depends on the first kTextPartBytes only.
size_t FirstPart(std::string_view text);

/// Appends the ids of all parts.
Status EncodeParts(const Tokenizer& tokenizer, std::string_view text, std::vector<uint32_t>* ids);

}  // namespace mf
