// What a recorded process did to files, one record after the other, in the order in which it took
// place: written by recorder.cpp, read by disk.cpp.
//
// A record is a RecordHead, then `path`, then `data`. Paths are absolute, their folders without
// links.
#pragma once

#include <cstdint>

namespace mf {

enum class FileOp : uint32_t {
  kRoot = 1,        // file: of the folder that is recorded
  kCreate = 2,      // path, file
  kMakeFolder = 3,  // path, file
  kWrite = 4,       // file, offset, data
  kResize = 5,      // file, offset: its new size
  kRename = 6,      // path -> data
  kLink = 7,        // path -> data
  kRemove = 8,      // path: a name of a file, or an empty folder
  kSyncBegin = 9,   // file: what came before is durable once the end of this sync is there
  kSyncEnd = 10,    // file
  kSaid = 11,       // data: the process, or who watches it, told the world
  kUnknown = 12,    // data: something that is not recorded as it ought to be
};

inline const char* NameOf(FileOp op) {
  constexpr const char* kNames[] = {"nothing",   "root",   "create", "mkdir",  "write",
                                    "resize",    "rename", "link",   "remove", "sync begins",
                                    "sync ends", "said",   "unknown"};
  return kNames[static_cast<uint32_t>(op)];
}

struct RecordHead {
  uint32_t op = 0;
  uint32_t process = 0;
  uint64_t file = 0;  // inode number
  uint64_t offset = 0;
  uint64_t path_bytes = 0;
  uint64_t data_bytes = 0;
};

}  // namespace mf
