#include "common/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace mf {

namespace fs = std::filesystem;

Status FileError(const std::string& path, const std::string& what, const std::string& why) {
  return Status::Failed(path + ": cannot " + what + ": " + why +
                        "; look at this disk and its free space");
}

Status FileError(const std::string& path, const std::string& what) {
  return FileError(path, what, std::strerror(errno));
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

uint64_t FileBytes(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

Status SyncPath(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError(path, "open");
  const bool synced = fsync(file) == 0;
  const Status status = synced ? Status::Ok() : FileError(path, "sync");
  close(file);
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
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError(path, "read");
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

Status PublishFile(const std::string& path, std::string_view text) {
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

Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return FileError(path, "make the folder", error.message());
  return Status::Ok();
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return FileError(path, "remove", error.message());
  return Status::Ok();
}

}  // namespace mf
