// Bytes as text that JSON can hold (RFC 4648, with padding).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mf {

std::string ToBase64(std::string_view bytes);
/// Nothing for a text that is none.
std::optional<std::string> FromBase64(std::string_view text);

}  // namespace mf
