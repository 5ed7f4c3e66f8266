// A folder of this process for targets that read files by name, in $TMPDIR; gone with the process
// if that ends well.
#pragma once

#include <string>
#include <string_view>

namespace mf::fuzz {

/// Its path; made at the first call.
const std::string& ScratchFolder();
/// Writes ScratchFolder()/name, in place of what was there; returns the path.
std::string ScratchFile(const std::string& name, std::string_view text);

}  // namespace mf::fuzz
