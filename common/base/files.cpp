#include "common/base/files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "common/base/input_file.h"
#include "common/base/logging.h"

namespace mf {

namespace fs = std::filesystem;

namespace {

/// What to do about it.
const char* Advice(int error) {
  switch (error) {
    case EDQUOT:
      return "the quota is used up: free some of it, or name a folder elsewhere";
    case EROFS:
      return "it is mounted to be read only: name a folder elsewhere";
    case EACCES:
    case EPERM:
      return "this user may not; look at its owner and mode, or name a folder elsewhere";
    case EMFILE:
    case ENFILE:
      return "raise ulimit -n";
    case EFBIG:
      return "raise ulimit -f";
    case ENOENT:
    case ENOTDIR:
    case EEXIST:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return "look at what is there, or name another place";
    default:
      return "look at this disk and its free space";
  }
}

/// True where the file system cannot do it at all, or no more of it, while others can.
bool HasNoLinks(int error) {
  return error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EXDEV ||
         error == EMLINK;
}

/// Everything from one descriptor to another; errno tells.
bool CopyBytes(int from, int to) {
  if (ioctl(to, FICLONE, from) == 0) return true;
  std::vector<char> piece(1 << 20);
  for (;;) {
    const ssize_t got = read(from, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got == 0;
    for (ssize_t done = 0; done < got;) {
      const ssize_t put =
          write(to, piece.data() + done, static_cast<size_t>(got) - static_cast<size_t>(done));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return false;
      done += put;
    }
  }
}

Status CopyFile(const std::string& from, const std::string& to) {
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) return FileError(from, "copy");
  const int out = open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (out < 0) {
    const Status status = FileError(from, "copy to " + to);
    close(in);
    return status;
  }
  Status status = CopyBytes(in, out) ? Status::Ok() : FileError(from, "copy to " + to);
  if (close(out) != 0 && status.ok()) status = FileError(from, "copy to " + to);
  close(in);
  if (!status.ok()) unlink(to.c_str());
  return status;
}

/// True if fsync() gave this error because the file is a folder and the file system syncs none.
/// Leaves errno alone.
bool RefusesFolders(int file, int error) {
  struct stat info;
  const bool folder = fstat(file, &info) == 0 && S_ISDIR(info.st_mode);
  errno = error;
  return folder && (error == EINVAL || error == EOPNOTSUPP || error == ENOSYS || error == EBADF);
}

/// errno of a sync; 0: it is done, or cannot be done here and need not.
int SyncErrno(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno;
  const int error = fsync(file) == 0 || RefusesFolders(file, errno) ? 0 : errno;
  close(file);
  return error;
}

/// SyncPath() of a folder that need not be this user's: who may make names in it may not be allowed
/// to read it, and where nothing can be written all is durable.
Status SyncNames(const std::string& folder) {
  errno = SyncErrno(folder);
  return errno == 0 || errno == EACCES || errno == EROFS ? Status::Ok() : FileError(folder, "sync");
}

/// Once a process: with copies everything takes more room.
void SayNoLinks(const std::string& folder) {
  static std::atomic<bool> said{false};
  if (said.exchange(true)) return;
  spdlog::warn("{}: no hard links here ({}): every snapshot is copied and takes its whole size",
               folder, std::strerror(errno));
}

}  // namespace

bool IsFull(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

Status FileError(const std::string& path, const std::string& what, const std::string& why) {
  return Status::Failed(path + ": cannot " + what + ": " + why + "; " + Advice(0));
}

Status FileError(const std::string& path, const std::string& what) {
  const int error = errno;
  return Status::Failed(path + ": cannot " + what + ": " + std::strerror(error) + "; " +
                        Advice(error));
}

std::vector<std::string> FileNames(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool FileExists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

Status CheckFolder(const std::string& path, const std::string& advice) {
  struct stat info;
  std::string why;
  if (stat(path.c_str(), &info) != 0) {
    why = std::strerror(errno);
  } else if (!S_ISDIR(info.st_mode)) {
    why = "not a folder";
  } else if (access(path.c_str(), R_OK | X_OK) != 0) {
    why = std::string("its names may not be read: ") + std::strerror(errno);
  } else {
    return Status::Ok();
  }
  return Status::Invalid(path + ": " + why + "; " + advice);
}

uint64_t FileBytes(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

Status SyncPath(const std::string& path) {
  errno = SyncErrno(path);
  return errno == 0 ? Status::Ok() : FileError(path, "sync");
}

Status LinkOrCopy(const std::string& from, const std::string& to) {
  if (link(from.c_str(), to.c_str()) == 0) return Status::Ok();
  if (!HasNoLinks(errno)) return FileError(from, "link to " + to);
  SayNoLinks(FolderOf(to));
  return CopyFile(from, to);
}

Status CheckFileSystem(const std::string& folder) {
  const std::string one = folder + "/tmp-probe-1", two = folder + "/tmp-probe-2",
                    three = folder + "/tmp-probe-3";
  for (const std::string& path : {one, two, three}) unlink(path.c_str());
  Status status;
  if (WriteSynced(one, "1").ok() && WriteSynced(two, "2").ok()) {
    if (link(one.c_str(), three.c_str()) != 0 && HasNoLinks(errno)) SayNoLinks(folder);
    if (rename(two.c_str(), one.c_str()) != 0 && !IsFull(errno)) {
      status = Status::Invalid(folder +
                               ": a file cannot be replaced by renaming another one over "
                               "it here: " +
                               std::strerror(errno) + "; name a folder on another file system");
    }
  }
  for (const std::string& path : {one, two, three}) unlink(path.c_str());
  return status;
}

Status WriteSynced(const std::string& path, std::string_view text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return FileError(path, "write");
  Status status;
  while (!text.empty() && status.ok()) {
    const ssize_t count = write(file, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      status = FileError(path, "write");
    } else {
      text.remove_prefix(static_cast<size_t>(count));
    }
  }
  if (status.ok() && fsync(file) != 0) status = FileError(path, "sync");
  if (close(file) != 0 && status.ok()) status = FileError(path, "write");
  return status;
}

Result<std::string> ReadSmallFile(const std::string& path, uint64_t most) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe may not wait
  if (file < 0) return FileError(path, "read");
  struct stat info;
  if (fstat(file, &info) == 0 && !S_ISREG(info.st_mode)) {
    close(file);
    return FileError(path, "read", "it is " + SpecialFile(info.st_mode) + ", not a file");
  }
  std::string text;
  char piece[1 << 16];
  for (;;) {
    const ssize_t count = read(file, piece, sizeof(piece));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const Status status = FileError(path, "read");
      close(file);
      return status;
    }
    if (count == 0) break;
    text.append(piece, static_cast<size_t>(count));
    if (text.size() > most) {
      close(file);
      return FileError(path, "read", "larger than " + std::to_string(most) + " bytes");
    }
  }
  close(file);
  return text;
}

Status RenamePath(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return FileError(from, "rename to " + to);
  return Status::Ok();
}

std::string FolderOf(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

Status PublishPath(const std::string& temporary, const std::string& path) {
  MF_RETURN_IF_ERROR(RenamePath(temporary, path));
  return SyncPath(FolderOf(path));
}

std::string FollowLinks(const std::string& path) {
  constexpr int kMost = 40;  // as the system's
  fs::path at = path;
  std::error_code error;
  for (int i = 0; i < kMost && fs::is_symlink(at, error); ++i) {
    const fs::path target = fs::read_symlink(at, error);
    if (error) break;
    at = target.is_absolute() ? target : at.parent_path() / target;
  }
  return at.string();
}

Status CheckReplaceable(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return Status::Ok();
  return FileError(path, "write", "it is " + SpecialFile(info.st_mode) + ", not a file");
}

Status PublishFile(const std::string& name, std::string_view text) {
  MF_RETURN_IF_ERROR(CheckReplaceable(name));
  const std::string path = FollowLinks(name);
  // Beside the final name, so that the rename stays inside one file system; two writers of the same
  // file, processes or threads, do not meet.
  static std::atomic<uint64_t> writers{0};
  const std::string temporary =
      path + ".partial-" + std::to_string(getpid()) + "-" + std::to_string(writers.fetch_add(1));
  Status status = WriteSynced(temporary, text);
  if (status.ok()) status = PublishPath(temporary, path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

Status MakeScratchFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0777) == 0) return Status::Ok();
  const int why = errno;
  struct stat there;
  if (why == EEXIST && stat(path.c_str(), &there) == 0 && S_ISDIR(there.st_mode))
    return Status::Ok();
  errno = why;
  return FileError(path, "make the folder");
}

Status MakeFolder(const std::string& path) {
  std::string there = fs::path(path).lexically_normal().string();
  if (there.size() > 1 && there.ends_with('/')) there.pop_back();
  std::vector<std::string> missing;
  for (; !FileExists(there); there = FolderOf(there)) missing.push_back(there);
  // From the top down, each name durable before there is one below it. A process that was killed
  // here thus left at most one that is not, the lowest: the first that is found.
  MF_RETURN_IF_ERROR(SyncNames(FolderOf(there)));
  for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
    MF_RETURN_IF_ERROR(MakeScratchFolder(*folder));
    MF_RETURN_IF_ERROR(SyncNames(FolderOf(*folder)));
  }
  return MakeScratchFolder(path);  // says so if it is none
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) return Status::Ok();
  errno = error.value();
  return FileError(path, "remove");
}

std::string GonePath(const std::string& path) {
  return FolderOf(path) + "/" + kGonePrefix + fs::path(path).filename().string();
}

Status RemoveAtOnce(const std::string& path) {
  const std::string gone = GonePath(path);
  MF_RETURN_IF_ERROR(RemoveTree(gone));
  if (!FileExists(path)) return Status::Ok();
  MF_RETURN_IF_ERROR(RenamePath(path, gone));
  MF_RETURN_IF_ERROR(SyncPath(FolderOf(path)));
  return RemoveTree(gone);
}

}  // namespace mf
