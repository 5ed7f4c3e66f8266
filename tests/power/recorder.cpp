// Preloaded or linked into a program, records what the process does to the files below
// MF_POWER_ROOT in the file MF_POWER_LOG (record.h). A change and its record are one under a lock
// on the log, for all threads and processes that share it, so the log has the order in which
// changes took place. Syncs are recorded and not done: the disk of the test is the log. What is
// written to standard output is recorded, too: it is what the process tells the world.
// MF_POWER_NO_LINKS: a file system without hard links.
//
// Changes that come by another way than the functions below are missing in the log; whoever replays
// it compares the outcome with the folder.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_set>

#include "common/base/mutex.h"
#include "tests/power/record.h"

namespace {

using mf::FileOp;

template <class Function>
Function* Real(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

class Log {
 public:
  static Log& Get() {
    static Log* const log = new Log;  // until the last exit handler
    return *log;
  }
  bool on() const { return file_ >= 0; }

  /// Below the root? `path` may be relative to `folder`. Then it is without links but in its name.
  bool Find(int folder, const char* path, std::string* found) const {
    if (!on() || path == nullptr) return false;
    std::string whole = path;
    if (whole.empty() || whole[0] != '/') {
      char at[PATH_MAX];
      const std::string link = folder == AT_FDCWD ? std::string("/proc/self/cwd")
                                                  : "/proc/self/fd/" + std::to_string(folder);
      const ssize_t size = readlink(link.c_str(), at, sizeof(at) - 1);
      if (size < 0) return false;
      whole = std::string(at, static_cast<size_t>(size)) + "/" + whole;
    }
    while (whole.size() > 1 && whole.back() == '/') whole.pop_back();
    const size_t slash = whole.rfind('/');
    char parent[PATH_MAX];
    if (realpath(whole.substr(0, slash + 1).c_str(), parent) == nullptr) return false;
    *found = std::string(parent) + whole.substr(slash);
    return found->starts_with(root_ + "/");
  }
  bool Follows(int file) const {
    struct stat info;
    return on() && fstat(file, &info) == 0 && followed_.contains(info.st_ino);
  }
  void Follow(uint64_t file) { followed_.insert(file); }

  void Add(FileOp op, uint64_t file, uint64_t offset, const std::string& path = "",
           const void* data = nullptr, size_t bytes = 0) {
    mf::RecordHead head{static_cast<uint32_t>(op),
                        static_cast<uint32_t>(getpid()),
                        file,
                        offset,
                        path.size(),
                        bytes};
    iovec parts[] = {{&head, sizeof(head)},
                     {const_cast<char*>(path.data()), path.size()},
                     {const_cast<void*>(data), bytes}};
    const size_t whole = sizeof(head) + path.size() + bytes;
    if (syscall(SYS_writev, file_, parts, 3) != static_cast<long>(whole)) abort();
  }
  void Add(FileOp op, const std::string& path, const std::string& data) {
    Add(op, 0, 0, path, data.data(), data.size());
  }

 private:
  friend class Turn;
  Log() {
    const char* path = std::getenv("MF_POWER_LOG");
    const char* root = std::getenv("MF_POWER_ROOT");
    char whole[PATH_MAX];
    struct stat info;
    if (path == nullptr || root == nullptr || realpath(root, whole) == nullptr) return;
    root_ = whole;
    const long opened =
        syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (opened < 0 || stat(whole, &info) != 0) abort();
    file_ = static_cast<int>(opened);
    Add(FileOp::kRoot, info.st_ino, 0, root_);
  }

  int file_ = -1;
  std::string root_;
  mf::Mutex mutex_;
  std::unordered_set<uint64_t> followed_;  // files below the root that were opened
};

/// While it lives nobody else changes or records anything. Keeps errno.
class Turn {
 public:
  Turn() MF_NO_THREAD_SAFETY_ANALYSIS : log_(Log::Get()) {
    log_.mutex_.Lock();
    if (log_.on()) syscall(SYS_flock, log_.file_, LOCK_EX);
  }
  ~Turn() MF_NO_THREAD_SAFETY_ANALYSIS {
    const int error = errno;
    if (log_.on()) syscall(SYS_flock, log_.file_, LOCK_UN);
    log_.mutex_.Unlock();
    errno = error;
  }
  Log* operator->() { return &log_; }

 private:
  Log& log_;
};

uint64_t NumberOf(int file) {
  struct stat info;
  return fstat(file, &info) == 0 ? info.st_ino : 0;
}

int OpenRecorded(int folder, const char* path, int flags, mode_t mode) {
  static const auto real = Real(&openat, "openat");
  if ((flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) == 0)
    return real(folder, path, flags, mode);
  Turn log;
  std::string found;
  if (!log->Find(folder, path, &found)) return real(folder, path, flags, mode);
  struct stat info;
  const bool was_there = lstat(found.c_str(), &info) == 0;
  const int file = real(folder, path, flags, mode);
  if (file < 0) return file;
  const uint64_t number = NumberOf(file);
  log->Follow(number);
  if (!was_there) log->Add(FileOp::kCreate, number, 0, found);
  if (was_there && (flags & O_TRUNC) != 0 && info.st_size > 0) log->Add(FileOp::kResize, number, 0);
  return file;
}

/// After a change of unknown extent: what is there now.
void RecordRange(Turn& log, int file, off_t offset, size_t bytes) {
  const int again = open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDONLY | O_CLOEXEC);
  std::string data(bytes, '\0');
  if (again < 0 || pread(again, data.data(), bytes, offset) != static_cast<ssize_t>(bytes)) abort();
  close(again);
  log->Add(FileOp::kWrite, NumberOf(file), static_cast<uint64_t>(offset), "", data.data(), bytes);
}

template <class Change>
int RecordSize(int file, const Change& change) {
  Turn log;
  struct stat before, after;
  if (!log->Follows(file) || fstat(file, &before) != 0) return change();
  const int result = change();
  if (fstat(file, &after) == 0 && after.st_size != before.st_size)
    log->Add(FileOp::kResize, after.st_ino, static_cast<uint64_t>(after.st_size));
  return result;
}

template <class Sync>
int RecordSync(int file, const Sync& real) {
  uint64_t number = 0;
  {
    Turn log;
    if (!log->on()) return real(file);
    number = NumberOf(file);
    if (number == 0) return real(file);
    log->Add(FileOp::kSyncBegin, number, 0);
  }
  Turn log;
  log->Add(FileOp::kSyncEnd, number, 0);
  return 0;
}

template <class Change>
int RecordPair(FileOp op, int from_folder, const char* from, int to_folder, const char* to,
               const Change& change) {
  Turn log;
  std::string old_path, new_path;
  const bool known = log->Find(from_folder, from, &old_path);
  const bool is_new = log->Find(to_folder, to, &new_path);
  const int result = change();
  if (result != 0) return result;
  if (known && is_new) log->Add(op, old_path, new_path);
  if (known != is_new) log->Add(FileOp::kUnknown, "", "moved in or out: " + old_path + new_path);
  return result;
}

template <class Change>
int RecordPath(FileOp op, int folder, const char* path, const Change& change) {
  Turn log;
  std::string found;
  const bool known = log->Find(folder, path, &found);
  const int result = change();
  struct stat info = {};
  if (result != 0 || !known) return result;
  if (op == FileOp::kMakeFolder && lstat(found.c_str(), &info) != 0) abort();
  log->Add(op, info.st_ino, 0, found);
  return result;
}

template <class Write>
ssize_t RecordWrite(int file, const void* data, off_t* offset, const Write& write) {
  Turn log;
  const bool said = file == STDOUT_FILENO && log->on();
  const bool follows = !said && log->Follows(file);
  const ssize_t done = write();
  if (done <= 0) return done;
  const auto bytes = static_cast<size_t>(done);
  if (said) log->Add(FileOp::kSaid, 0, 0, "", data, bytes);
  if (!follows) return done;
  const off_t at = offset != nullptr ? *offset : lseek(file, 0, SEEK_CUR) - done;
  if (data == nullptr) {
    RecordRange(log, file, at, bytes);
  } else {
    log->Add(FileOp::kWrite, NumberOf(file), static_cast<uint64_t>(at), "", data, bytes);
  }
  return done;
}

}  // namespace

// Symbols of the program or of a preloaded library come before those of the C library, for all
// libraries of the process.
extern "C" {

#define MF_OPEN_MODE                  \
  mode_t mode = 0;                    \
  if ((flags & O_CREAT) != 0) {       \
    va_list arguments;                \
    va_start(arguments, flags);       \
    mode = va_arg(arguments, mode_t); \
    va_end(arguments);                \
  }
int open(const char* path, int flags, ...) {
  MF_OPEN_MODE
  return OpenRecorded(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  MF_OPEN_MODE
  return OpenRecorded(AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  MF_OPEN_MODE
  return OpenRecorded(folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
  MF_OPEN_MODE
  return OpenRecorded(folder, path, flags, mode);
}
ssize_t write(int file, const void* data, size_t bytes) {
  static const auto real = Real(&write, "write");
  return RecordWrite(file, data, nullptr, [&] { return real(file, data, bytes); });
}
ssize_t pwrite(int file, const void* data, size_t bytes, off_t offset) {
  static const auto real = Real(&pwrite, "pwrite");
  return RecordWrite(file, data, &offset, [&] { return real(file, data, bytes, offset); });
}
ssize_t pwrite64(int file, const void* data, size_t bytes, off64_t offset) {
  return pwrite(file, data, bytes, offset);
}
ssize_t writev(int file, const iovec* parts, int count) {
  static const auto real = Real(&writev, "writev");
  return RecordWrite(file, nullptr, nullptr, [&] { return real(file, parts, count); });
}
ssize_t sendfile(int out, int in, off_t* offset, size_t bytes) noexcept {
  static const auto real = Real(&sendfile, "sendfile");
  return RecordWrite(out, nullptr, nullptr, [&] { return real(out, in, offset, bytes); });
}
ssize_t sendfile64(int out, int in, off64_t* offset, size_t bytes) noexcept {
  return sendfile(out, in, offset, bytes);
}
ssize_t copy_file_range(int in, off64_t* in_offset, int out, off64_t* out_offset, size_t bytes,
                        unsigned int flags) {
  static const auto real = Real(&copy_file_range, "copy_file_range");
  off_t at = out_offset != nullptr ? *out_offset : 0;
  return RecordWrite(out, nullptr, out_offset != nullptr ? &at : nullptr,
                     [&] { return real(in, in_offset, out, out_offset, bytes, flags); });
}
int ftruncate(int file, off_t size) noexcept {
  static const auto real = Real(&ftruncate, "ftruncate");
  return RecordSize(file, [&] { return real(file, size); });
}
int ftruncate64(int file, off64_t size) noexcept { return ftruncate(file, size); }
int fallocate(int file, int mode, off_t offset, off_t bytes) {
  static const auto real = Real(&fallocate, "fallocate");
  return RecordSize(file, [&] { return real(file, mode, offset, bytes); });
}
int fallocate64(int file, int mode, off64_t offset, off64_t bytes) {
  return fallocate(file, mode, offset, bytes);
}
int fsync(int file) { return RecordSync(file, Real(&fsync, "fsync")); }
int fdatasync(int file) { return RecordSync(file, Real(&fdatasync, "fdatasync")); }
int rename(const char* from, const char* to) noexcept {
  static const auto real = Real(&rename, "rename");
  return RecordPair(FileOp::kRename, AT_FDCWD, from, AT_FDCWD, to, [&] { return real(from, to); });
}
int link(const char* from, const char* to) noexcept {
  static const auto real = Real(&link, "link");
  if (std::getenv("MF_POWER_NO_LINKS") != nullptr) {
    errno = EPERM;
    return -1;
  }
  return RecordPair(FileOp::kLink, AT_FDCWD, from, AT_FDCWD, to, [&] { return real(from, to); });
}
int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = Real(&mkdir, "mkdir");
  return RecordPath(FileOp::kMakeFolder, AT_FDCWD, path, [&] { return real(path, mode); });
}
int unlink(const char* path) noexcept {
  static const auto real = Real(&unlink, "unlink");
  return RecordPath(FileOp::kRemove, AT_FDCWD, path, [&] { return real(path); });
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  static const auto real = Real(&unlinkat, "unlinkat");
  return RecordPath(FileOp::kRemove, folder, path, [&] { return real(folder, path, flags); });
}
int rmdir(const char* path) noexcept {
  static const auto real = Real(&rmdir, "rmdir");
  return RecordPath(FileOp::kRemove, AT_FDCWD, path, [&] { return real(path); });
}
int remove(const char* path) noexcept {
  static const auto real = Real(&remove, "remove");
  return RecordPath(FileOp::kRemove, AT_FDCWD, path, [&] { return real(path); });
}
void* mmap(void* address, size_t bytes, int protection, int flags, int file,
           off_t offset) noexcept {
  static const auto real = Real(&mmap, "mmap");
  if (file >= 0 && (flags & MAP_PRIVATE) == 0 && (protection & PROT_WRITE) != 0) {
    Turn log;
    if (log->Follows(file)) log->Add(FileOp::kUnknown, "", "a file is written through a mapping");
  }
  return real(address, bytes, protection, flags, file, offset);
}
void* mmap64(void* address, size_t bytes, int protection, int flags, int file,
             off64_t offset) noexcept {
  return mmap(address, bytes, protection, flags, file, offset);
}

}  // extern "C"
