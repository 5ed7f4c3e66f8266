// What is known of large files of data from an earlier start, so that hundreds of gigabytes are not
// hashed each time: OUT/data-digests. A file that is not exactly what it was then (device, inode,
// size, times in nanoseconds) is hashed again; one that is, is still checked piece by piece as it
// is read (checked_file.h), so that nothing here needs to be believed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/base/input_file.h"
#include "common/base/status.h"

namespace mf {

class DigestStore {
 public:
  /// What `path` holds; nothing if it is missing or damaged. kInvalid if a newer version of this
  /// program wrote it.
  static Result<DigestStore> Load(const std::string& path);
  /// The digests of the pieces of a file that is exactly this one; empty: not known.
  std::vector<std::string> Find(const std::string& file, const FileIdentity& identity) const;
  void Add(const std::string& file, const FileIdentity& identity, std::vector<std::string> pieces);
  /// kFailed if it cannot be written.
  Status Save(const std::string& path) const;
  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    FileIdentity identity;
    std::vector<std::string> pieces;
  };
  std::map<std::string, Entry> entries_;  // by path
};

}  // namespace mf
