// The DIGEST of a snapshot carries a SHA-256 of itself. A fuzzer finds none, so it is put in after
// the change: what is tested is what a damaged or foreign writer could leave behind it.
#pragma once

#include <string>

namespace mf::fuzz {

/// `text`, if it is a JSON object, with the right `sha256`; else as it is.
std::string SignDigest(const std::string& text);

}  // namespace mf::fuzz
