// A file of data that must stay what it was when a run began, for as long as the run goes on,
// though it is far too large to be kept in memory. Its digest is of all its bytes, piece by piece;
// what is read later is of a piece that has this digest, or it is an error.
//
// Reads go through the disk's cache, which all processes of a machine share: nothing of the file is
// memory of this process, and a file that is cut or a disk that fails is a Status. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/input_file.h"
#include "common/base/mutex.h"
#include "common/base/status.h"

namespace mf {

inline constexpr uint64_t kPieceBytes = uint64_t{64} << 20;

class CheckedFile {
 public:
  /// `held`: kept open, so that the file may be deleted or replaced meanwhile; others are opened
  /// for every read (a folder may have more files than a process may open). `piece_bytes` is for
  /// tests.
  static Result<std::unique_ptr<CheckedFile>> Open(const std::string& path, bool held,
                                                   uint64_t piece_bytes = kPieceBytes);

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return opened_.bytes; }
  /// As it was opened.
  const FileIdentity& identity() const { return opened_; }

  /// Reads everything once, in order, and gives it to `take`; with `digest` the pieces are known
  /// afterwards. kFailed if the file changes meanwhile.
  using Take = std::function<void(const char* data, size_t bytes)>;
  Status ReadAll(bool digest, const Take& take);
  /// SHA-256 of each piece (64 hex digits), as an earlier start found them: each is checked when it
  /// is first read from. False, and nothing is taken, if these cannot be the file's.
  bool Adopt(std::vector<std::string> pieces);
  /// Empty until they are known.
  const std::vector<std::string>& pieces() const { return pieces_; }
  /// SHA-256 of the file, or of the digests of its pieces if there are several; pieces() are known.
  std::string Digest() const;

  /// Bytes [offset, offset + bytes), which were there when it was opened. kFailed, naming the file,
  /// if they are others now: with pieces known, whatever was done to the file, and without them if
  /// it was written to at all.
  Status Read(uint64_t offset, size_t bytes, void* data) const;

 private:
  CheckedFile(std::string path, uint64_t piece_bytes)
      : path_(std::move(path)), piece_bytes_(piece_bytes) {}
  /// The held file, or another one that is opened in *opened.
  Result<const InputFile*> File(std::unique_ptr<InputFile>* opened) const;
  Status Changed(const std::string& how) const;
  /// The file is the one last seen, or all pieces are to be checked again.
  Status Look(const InputFile& file, bool* as_before) const MF_REQUIRES(mutex_);
  Status CheckPiece(const InputFile& file, size_t piece) const MF_REQUIRES(mutex_);

  const std::string path_;
  const uint64_t piece_bytes_;
  std::unique_ptr<InputFile> held_;
  FileIdentity opened_;
  std::vector<std::string> pieces_;  // written before other threads read

  mutable Mutex mutex_;
  mutable FileIdentity seen_ MF_GUARDED_BY(mutex_);
  mutable std::vector<bool> checked_ MF_GUARDED_BY(mutex_);  // pieces of seen_
  mutable int changes_ MF_GUARDED_BY(mutex_) = 0;
};

}  // namespace mf
