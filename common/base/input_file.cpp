#include "common/base/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "common/base/run_program.h"

namespace mf {
namespace {

FileIdentity IdentityOf(const struct stat& info) {
  constexpr int64_t kNanoseconds = 1'000'000'000;
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .bytes = static_cast<uint64_t>(info.st_size),
          .modified_ns = info.st_mtim.tv_sec * kNanoseconds + info.st_mtim.tv_nsec,
          .changed_ns = info.st_ctim.tv_sec * kNanoseconds + info.st_ctim.tv_nsec};
}

/// All that a pipe will ever hold, as a file in memory; -1 with errno, ETIMEDOUT if nobody writes
/// to it.
int Spool(int pipe) {
  constexpr int kPatienceMs = 10'000;  // for a writer to come
  struct pollfd writer = {.fd = pipe, .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&writer, 1, kPatienceMs);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) errno = ETIMEDOUT;
  if (ready <= 0) return -1;
  if (fcntl(pipe, F_SETFL, fcntl(pipe, F_GETFL) & ~O_NONBLOCK) != 0) return -1;
  const int memory = memfd_create("pipe", MFD_CLOEXEC);
  if (memory < 0) return -1;
  char piece[1 << 16];
  for (;;) {
    ssize_t count = read(pipe, piece, sizeof(piece));
    if (count == 0) return memory;
    for (const char* at = piece; count > 0;) {
      const ssize_t written = write(memory, at, static_cast<size_t>(count));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) count = -1;
      if (written > 0) {
        at += written;
        count -= written;
      }
    }
    if (count < 0 && errno != EINTR) break;
  }
  const int error = errno;
  close(memory);
  errno = error;
  return -1;
}

}  // namespace

std::string WhyNotOpened(const std::string& path, int error) {
  struct stat info;
  if (error == ENOENT && lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) {
    char target[PATH_MAX];
    const ssize_t length = readlink(path.c_str(), target, sizeof(target));
    return "a link to " + std::string(target, static_cast<size_t>(std::max<ssize_t>(length, 0))) +
           ", which is not there";
  }
  return std::strerror(error);
}

std::string SpecialFile(mode_t mode) {
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISDIR(mode)) return "a folder";
  return "a device";
}

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Result<InputFile> InputFile::Open(const std::string& path, const std::string& what) {
  return Open(path, what, /*spool=*/false);
}

Result<InputFile> InputFile::OpenOrSpool(const std::string& path, const std::string& what) {
  return Open(path, what, /*spool=*/true);
}

Result<InputFile> InputFile::Open(const std::string& path, const std::string& what, bool spool) {
  const auto refuse = [&](const std::string& why) {
    return Status::Invalid(path + ": " + (what.empty() ? "" : "cannot open " + what + ": ") + why);
  };
  // Devices may do something when they are opened, and a socket cannot be: looked at before.
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return refuse(WhyNotOpened(path, errno));
  const auto fits = [&] { return S_ISREG(info.st_mode) || (spool && S_ISFIFO(info.st_mode)); };
  if (!fits()) return refuse("it is " + SpecialFile(info.st_mode) + ", not a file");
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return refuse(WhyNotOpened(path, errno));
  InputFile file(path, descriptor);
  if (fstat(descriptor, &info) != 0) return refuse(std::strerror(errno));
  if (!fits()) return refuse("it is " + SpecialFile(info.st_mode) + ", not a file");
  if (S_ISREG(info.st_mode)) return file;
  const int memory = Spool(descriptor);
  if (memory < 0) {
    return refuse(errno == ETIMEDOUT ? "a pipe that nobody writes to" : std::strerror(errno));
  }
  return InputFile(path, memory);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Result<FileIdentity> InputFile::Identity() const {
  struct stat info;
  if (fstat(descriptor_, &info) == 0) return IdentityOf(info);
  return Status::Failed(path_ + ": cannot be looked at: " + std::strerror(errno));
}

Result<size_t> InputFile::ReadSome(uint64_t offset, size_t bytes, void* data) const {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t count = pread(descriptor_, static_cast<char*>(data) + done, bytes - done,
                                static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return Status::Failed(path_ + ": cannot read byte " + std::to_string(offset + done) + ": " +
                            std::strerror(errno));
    }
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

Result<std::string> ReadInput(const std::string& path, const std::string& what, size_t most) {
  MF_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, what));
  MF_ASSIGN_OR_RETURN(const FileIdentity identity, file.Identity());
  if (identity.bytes > most) {
    return Status::Invalid(path + ": larger than " + std::to_string(most) + " bytes");
  }
  std::string text(std::min<uint64_t>(most, identity.bytes + 1), '\0');
  MF_ASSIGN_OR_RETURN(const size_t count, file.ReadSome(0, text.size(), text.data()));
  text.resize(count);
  return text;
}

Result<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path,
                                                     const std::string& what) {
  MF_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, what));
  MF_ASSIGN_OR_RETURN(const FileIdentity identity, file.Identity());
  std::unique_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  if (identity.bytes == 0) return mapped;
  void* const data = mmap(nullptr, identity.bytes, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data == MAP_FAILED) {
    return Status::Failed(path + ": cannot map " + what + ": " + std::strerror(errno));
  }
  mapped->data_ = static_cast<const std::byte*>(data);
  mapped->bytes_ = identity.bytes;
  NameMapping(mapped->data_, mapped->bytes_, mapped->path_.c_str());
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  ForgetMapping(data_);
  munmap(const_cast<std::byte*>(data_), bytes_);
}

}  // namespace mf
