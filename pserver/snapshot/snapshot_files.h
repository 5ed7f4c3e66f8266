// Files and folders of snapshots: durable writes, links, removal, listing. Errors are a Status that
// says what, where and why; nothing throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// "PATH: cannot WHAT: <errno>; ADVICE".
Status FileError(const std::string& path, const std::string& what);

/// Names in the folder, sorted; empty if it can not be read.
std::vector<std::string> FileNames(const std::string& folder);
bool FileExists(const std::string& path);
uint64_t FileBytes(const std::string& path);

/// A whole file or folder made durable.
Status SyncPath(const std::string& path);
/// Written and synced; the folder is not.
Status WriteSynced(const std::string& path, std::string_view text);
/// At most `most` bytes; an error if there are more.
Result<std::string> ReadSmallFile(const std::string& path, uint64_t most);
Status RenamePath(const std::string& from, const std::string& to);
Status MakeFolder(const std::string& path);
/// The file or the folder with all in it; nothing there is fine.
Status RemoveTree(const std::string& path);
/// `to` becomes the same database as `from`: tables by hard links, the rest by copies, because
/// RocksDB appends to those. Files named in `leave` are left out.
Status LinkDatabase(const std::string& from, const std::string& to, const std::string& leave);

/// n of "step-<n>" with n >= 1 written in the plain way, else 0.
uint64_t StepOfName(const std::string& name);
/// The steps published in the folder, rising.
std::vector<uint64_t> StepsIn(const std::string& folder);
inline std::string StepPath(const std::string& folder, uint64_t step) {
  return folder + "/step-" + std::to_string(step);
}

}  // namespace mf
