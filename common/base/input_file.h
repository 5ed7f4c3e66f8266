// Files that are read. All are opened here, so that a pipe that nobody writes never hangs a
// program, and a folder, a device, a dangling link or a missing right is told in the same words.
//
// What is on a disk may be changed, cut or lost while it is read. InputFile reads into memory of
// the caller, where that is an error like any other. MappedFile is for files that are used in
// place; touching what is no longer there is a SIGBUS, of which RunProgram() makes a line that
// names the file.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace mf {

/// Which file this is and when it was changed, as far as the system tells without reading it.
struct FileIdentity {
  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t modified_ns = 0, changed_ns = 0;  // contents; contents, owner or rights
  bool operator==(const FileIdentity&) const = default;
  /// Nothing was written to it since: rights and links may have changed.
  bool SameContent(const FileIdentity& other) const {
    return device == other.device && inode == other.inode && bytes == other.bytes &&
           modified_ns == other.modified_ns;
  }
};

/// Why `path` cannot be opened, of errno's value: a dangling link is told from a missing file.
std::string WhyNotOpened(const std::string& path, int error);
/// What is neither file nor folder, in words: "a pipe", "a device".
std::string SpecialFile(mode_t mode);
/// The folder is there, through links, too. Never throws; false for what cannot be looked at.
bool IsFolder(const std::string& path);

class InputFile {
 public:
  /// kInvalid, "PATH: cannot open WHAT: reason" ("PATH: reason" if WHAT is empty), for what is
  /// missing, may not be read, or is no regular file. Never waits.
  static Result<InputFile> Open(const std::string& path, const std::string& what = "it");
  /// The same, but a pipe is read to its end, into memory: `<(command)` of a shell. Waits up to 10
  /// s for somebody to write to it.
  static Result<InputFile> OpenOrSpool(const std::string& path, const std::string& what = "it");
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// As it is now. kFailed if the file system does not answer.
  Result<FileIdentity> Identity() const;
  /// At most `bytes` bytes from `offset`: fewer only at the end of the file. kFailed if the disk
  /// fails.
  Result<size_t> ReadSome(uint64_t offset, size_t bytes, void* data) const;

 private:
  InputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  static Result<InputFile> Open(const std::string& path, const std::string& what, bool spool);

  std::string path_;
  int descriptor_ = -1;
};

/// The whole file, as of InputFile::Open(); kInvalid also if it is larger than `most` bytes.
Result<std::string> ReadInput(const std::string& path, const std::string& what, size_t most);

/// A whole file in memory that other processes share, read-only.
class MappedFile {
 public:
  /// kInvalid as of InputFile; kFailed if there is no room for the mapping. An empty file is no
  /// memory.
  static Result<std::unique_ptr<MappedFile>> Open(const std::string& path, const std::string& what);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  MappedFile() = default;

  std::string path_;
  const std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace mf
