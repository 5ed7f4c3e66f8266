// Files and folders: durable writes, publication by rename, reading, removal, listing. Errors are a
// Status that says what, where and why; nothing throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// kFailed, "PATH: cannot WHAT: <errno>; look at this disk and its free space".
Status FileError(const std::string& path, const std::string& what);
/// The same with another reason than errno's.
Status FileError(const std::string& path, const std::string& what, const std::string& why);

/// Names in the folder, sorted; empty if it cannot be read.
std::vector<std::string> FileNames(const std::string& folder);
bool FileExists(const std::string& path);
uint64_t FileBytes(const std::string& path);

/// A whole file or folder made durable.
Status SyncPath(const std::string& path);
/// The folder that the path stands in: "." for a bare name.
std::string FolderOf(const std::string& path);
/// Written and synced; the folder is not.
Status WriteSynced(const std::string& path, std::string_view text);
Status RenamePath(const std::string& from, const std::string& to);
/// `temporary`, which is synced, becomes `path`, durably.
Status PublishPath(const std::string& temporary, const std::string& path);
/// Readers see the old file or the whole new one, whenever the machine stops; durable when it
/// returns. Of several processes that write the same file the last one wins.
Status PublishFile(const std::string& path, std::string_view text);
/// At most `most` bytes; an error if there are more.
Result<std::string> ReadSmallFile(const std::string& path, uint64_t most);
/// The folder and those above it.
Status MakeFolder(const std::string& path);
/// The file or the folder with all in it; nothing there is fine.
Status RemoveTree(const std::string& path);

}  // namespace mf
