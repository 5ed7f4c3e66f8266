// A lock on a file: keeps a second process off a folder. Ends with the object or the process.
#pragma once

#include <string>
#include <utility>

#include "common/base/status.h"

namespace mf {

/// What to do on a file system that has no locks (NFS without its lock daemon, Lustre without -o
/// flock): only a human knows whether somebody else uses the folder.
enum class NoLocks { kRefuse, kGoOn };

class FileLock {
 public:
  /// kShared: any number of readers. kExclusive makes the file if it is missing.
  enum class Kind { kShared, kExclusive };

  /// kUnavailable if somebody else holds it, kFailed if the file cannot be opened, kInvalid, in
  /// words, if there are no locks and `without` is kRefuse; with kGoOn that is warned of.
  static Result<FileLock> Take(const std::string& path, Kind kind, NoLocks without);

  FileLock() = default;
  ~FileLock();
  FileLock(FileLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  FileLock& operator=(FileLock&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }

  /// The only one who works in a folder: an exclusive lock on the file FOLDER/NAME, which
  /// ReleaseAndRemove() takes away again. kUnavailable also where its last holder has just done so.
  static Result<FileLock> TakeFolder(const std::string& path);
  /// Ends the lock, and the file with it.
  void ReleaseAndRemove(const std::string& path);

  /// The file is not at `path` any more: it was moved or removed, or the folder was. False where
  /// nothing is held, or the file system does not say.
  bool Moved(const std::string& path) const;

 private:
  int file_ = -1;
};

}  // namespace mf
