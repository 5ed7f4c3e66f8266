#include "common/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/logging.h"

namespace mf {

Result<FileLock> FileLock::Take(const std::string& path, Kind kind, NoLocks without) {
  FileLock lock;
  const bool exclusive = kind == Kind::kExclusive;
  lock.file_ = open(path.c_str(), (exclusive ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC, 0644);
  if (lock.file_ < 0) return Status::Failed(path + ": cannot open: " + std::strerror(errno));
  int taken = 0;
  do {
    taken = flock(lock.file_, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
  } while (taken != 0 && errno == EINTR);
  if (taken == 0) return lock;
  if (errno == EWOULDBLOCK) return Status(Code::kUnavailable, path + ": another process holds it");
  const std::string why = path + ": this file system has no locks (" + std::strerror(errno) + ")";
  if (without == NoLocks::kGoOn) {
    spdlog::warn("{}: nothing keeps a second process off this folder", why);
    return lock;
  }
  return Status::Invalid(
      why +
      ", so nothing would keep a second server off this folder; mount it with "
      "locks, name a folder elsewhere, or give --no-lock if nobody else uses it");
}

Result<FileLock> FileLock::TakeFolder(const std::string& path) {
  MF_ASSIGN_OR_RETURN(FileLock lock, Take(path, Kind::kExclusive, NoLocks::kGoOn));
  if (!lock.Moved(path)) return lock;
  return Status(Code::kUnavailable, path + ": another process held it a moment ago");
}

void FileLock::ReleaseAndRemove(const std::string& path) {
  unlink(path.c_str());  // first: nobody takes a lock on a file that goes
  if (file_ >= 0) close(std::exchange(file_, -1));
}

bool FileLock::Moved(const std::string& path) const {
  struct stat held, there;
  if (file_ < 0 || fstat(file_, &held) != 0) return false;
  if (stat(path.c_str(), &there) != 0) return errno == ENOENT || errno == ENOTDIR;
  return held.st_dev != there.st_dev || held.st_ino != there.st_ino;
}

FileLock::~FileLock() {
  if (file_ >= 0) close(file_);
}

}  // namespace mf
