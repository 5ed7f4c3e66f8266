// Names of functions, for messages.
#pragma once

#include <string>

namespace mf::emulated_gpu {

/// The name of the function at `address` in this program, also of one with internal linkage; its
/// address if the program has no symbols.
std::string SymbolName(const void* address);

}  // namespace mf::emulated_gpu
