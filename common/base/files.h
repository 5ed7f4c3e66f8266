// Files and folders: durable writes, publication by rename, links, reading, removal, listing.
// Errors are a Status that says what, where and why; nothing throws. What a file system need not
// have (hard links, syncs of folders) is done in another way here, for all who ask.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// kFailed, "PATH: cannot WHAT: <errno>; ADVICE": what to do depends on errno.
Status FileError(const std::string& path, const std::string& what);
/// The same with another reason than errno's.
Status FileError(const std::string& path, const std::string& what, const std::string& why);

/// Names in the folder, sorted; empty if it cannot be read.
std::vector<std::string> FileNames(const std::string& folder);
bool FileExists(const std::string& path);
/// kInvalid with the reason, and `advice`, if there is no folder or its names may not be read.
Status CheckFolder(const std::string& path, const std::string& advice);
uint64_t FileBytes(const std::string& path);

/// True for the errors of a disk or a quota that is full: what failed may work again later.
bool IsFull(int error);

/// A whole file or folder made durable. Folders as far as the file system can: some refuse it
/// (EINVAL), and then keep names by themselves or not at all.
Status SyncPath(const std::string& path);
/// `to`, which is not there, becomes another name of the file, or a copy of it where the file
/// system has no hard links, or no more for it; a copy shares the bytes where that is possible.
/// Synced is neither.
Status LinkOrCopy(const std::string& from, const std::string& to);
/// Tries what whoever keeps state in the folder needs: that a file is replaced by renaming another
/// one over it. kInvalid where that cannot be; warns of a file system without hard links. Ok where
/// there is no room to try.
Status CheckFileSystem(const std::string& folder);
/// The folder that the path stands in: "." for a bare name.
std::string FolderOf(const std::string& path);
/// Written and synced; the folder is not.
Status WriteSynced(const std::string& path, std::string_view text);
Status RenamePath(const std::string& from, const std::string& to);
/// `temporary`, which is synced, becomes `path`, durably.
Status PublishPath(const std::string& temporary, const std::string& path);
/// Where a link leads in the end, whether there is something or not; what is no link: itself.
std::string FollowLinks(const std::string& path);
/// kFailed if there is something at `path` that is no file: a device, a pipe, a folder.
Status CheckReplaceable(const std::string& path);
/// Readers see the old file or the whole new one, whenever the machine stops; durable when it
/// returns. A link stays, what it leads to is replaced. Of several processes that write the same
/// file the last one wins.
Status PublishFile(const std::string& path, std::string_view text);
/// At most `most` bytes; an error if there are more.
Result<std::string> ReadSmallFile(const std::string& path, uint64_t most);
/// The folder and those above it; its name is durable when it returns, whoever made it and
/// whenever.
Status MakeFolder(const std::string& path);
/// The folder alone, in one that is there: what has gone away meanwhile is not made anew. Its loss
/// does no harm: nothing is synced.
Status MakeScratchFolder(const std::string& path);
/// The file or the folder with all in it; nothing there is fine.
Status RemoveTree(const std::string& path);
/// The same in one moment, whenever the machine stops: it is at GonePath(), durably, before the
/// first of its files goes. Whoever finds something there may remove it.
Status RemoveAtOnce(const std::string& path);
inline constexpr const char* kGonePrefix = "gone-";
/// gone-NAME beside the path.
std::string GonePath(const std::string& path);

}  // namespace mf
