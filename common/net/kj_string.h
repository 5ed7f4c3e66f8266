// Before Cap'n Proto's headers where Clang compiles those of version 0.9 (CMakeLists.txt includes
// it). They leave out `"..." == kj::StringPtr` in C++20, which should find it by turning the
// operands round; the rules were mended later (P2468) and do not turn round what also has a `!=`.
// These are the two.
#pragma once

#include <kj/string.h>

namespace kj {

inline bool operator==(const char* a, const StringPtr& b) { return StringPtr(a) == b; }
inline bool operator!=(const char* a, const StringPtr& b) { return StringPtr(a) != b; }

}  // namespace kj
