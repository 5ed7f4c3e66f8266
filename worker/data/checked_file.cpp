#include "worker/data/checked_file.h"

#include <algorithm>
#include <utility>

#include "common/base/digest.h"
#include "common/base/logging.h"

namespace mf {
namespace {

constexpr size_t kBlockBytes = 1 << 20;
// A file that somebody appends to all the time would be checked again and again.
constexpr int kMostChanges = 16;

}  // namespace

Result<std::unique_ptr<CheckedFile>> CheckedFile::Open(const std::string& path, bool held,
                                                       uint64_t piece_bytes) {
  std::unique_ptr<CheckedFile> file(new CheckedFile(path, piece_bytes));
  MF_ASSIGN_OR_RETURN(InputFile opened, InputFile::OpenOrSpool(path));
  MF_ASSIGN_OR_RETURN(file->opened_, opened.Identity());
  {
    MutexLock lock(file->mutex_);
    file->seen_ = file->opened_;
  }
  if (held) file->held_ = std::make_unique<InputFile>(std::move(opened));
  return file;
}

Result<const InputFile*> CheckedFile::File(std::unique_ptr<InputFile>* opened) const {
  if (held_ != nullptr) return held_.get();
  Result<InputFile> file = InputFile::Open(path_, "it again");
  if (!file.ok()) return Status::Failed(file.status().message());
  *opened = std::make_unique<InputFile>(std::move(file).value());
  return opened->get();
}

Status CheckedFile::Changed(const std::string& how) const {
  return Status::Failed(path_ + ": was changed while it is in use: " + how +
                        "; bring back what it was, or begin another run with it");
}

Status CheckedFile::ReadAll(bool digest, const Take& take) {
  std::unique_ptr<InputFile> opened;
  MF_ASSIGN_OR_RETURN(const InputFile* const file, File(&opened));
  std::vector<char> block(static_cast<size_t>(std::min<uint64_t>(kBlockBytes, bytes() + 1)));
  std::vector<std::string> pieces;
  Sha256 hash;
  uint64_t at = 0;
  while (at < bytes()) {
    const uint64_t end_of_piece = std::min(bytes(), (at / piece_bytes_ + 1) * piece_bytes_);
    const size_t size = static_cast<size_t>(std::min<uint64_t>(block.size(), end_of_piece - at));
    MF_ASSIGN_OR_RETURN(const size_t count, file->ReadSome(at, size, block.data()));
    if (count < size) return Changed("it ends at byte " + std::to_string(at + count));
    if (digest) hash.Update(block.data(), count);
    take(block.data(), count);
    at += count;
    if (digest && at == end_of_piece) {
      pieces.push_back(hash.Hex());
      hash = Sha256();
    }
  }
  MF_ASSIGN_OR_RETURN(const FileIdentity now, file->Identity());
  if (!now.SameContent(opened_)) return Changed("it was written to while it was read");
  if (!digest) return Status::Ok();
  pieces_ = std::move(pieces);
  MutexLock lock(mutex_);
  checked_.assign(pieces_.size(), true);
  return Status::Ok();
}

bool CheckedFile::Adopt(std::vector<std::string> pieces) {
  if (pieces.size() != (bytes() + piece_bytes_ - 1) / piece_bytes_) return false;
  pieces_ = std::move(pieces);
  MutexLock lock(mutex_);
  checked_.assign(pieces_.size(), false);
  return true;
}

std::string CheckedFile::Digest() const {
  if (pieces_.size() == 1) return pieces_[0];
  Sha256 hash;
  for (const std::string& piece : pieces_) hash.Update(piece);
  return hash.Hex();
}

Status CheckedFile::Look(const InputFile& file, bool* as_before) const {
  MF_ASSIGN_OR_RETURN(const FileIdentity now, file.Identity());
  *as_before = now.SameContent(seen_);
  if (*as_before) return Status::Ok();
  if (pieces_.empty()) return Changed("it was written to");
  if (changes_++ == 0) {
    spdlog::warn("{}: was written to while it is in use; what is read of it is checked again",
                 path_);
  }
  if (changes_ > kMostChanges) return Changed("it is written to again and again");
  seen_ = now;
  checked_.assign(pieces_.size(), false);
  return Status::Ok();
}

Status CheckedFile::CheckPiece(const InputFile& file, size_t piece) const {
  if (pieces_.empty() || checked_[piece]) return Status::Ok();
  const uint64_t begin = piece * piece_bytes_, end = std::min(bytes(), begin + piece_bytes_);
  std::vector<char> block(static_cast<size_t>(std::min<uint64_t>(kBlockBytes, end - begin)));
  Sha256 hash;
  for (uint64_t at = begin; at < end;) {
    const size_t size = static_cast<size_t>(std::min<uint64_t>(block.size(), end - at));
    MF_ASSIGN_OR_RETURN(const size_t count, file.ReadSome(at, size, block.data()));
    if (count < size) {
      return Changed("it ends at byte " + std::to_string(std::min(seen_.bytes, at + count)));
    }
    hash.Update(block.data(), count);
    at += count;
  }
  if (hash.Hex() != pieces_[piece]) {
    return Changed("bytes " + std::to_string(begin) + " to " + std::to_string(end) +
                   " are not those of the run");
  }
  checked_[piece] = true;
  return Status::Ok();
}

Status CheckedFile::Read(uint64_t offset, size_t bytes, void* data) const {
  MF_CHECK(offset <= opened_.bytes && bytes <= opened_.bytes - offset);
  if (bytes == 0) return Status::Ok();
  std::unique_ptr<InputFile> opened;
  MF_ASSIGN_OR_RETURN(const InputFile* const file, File(&opened));
  // Ends: Look() counts changes.
  for (bool as_before = false; !as_before;) {
    {
      MutexLock lock(mutex_);
      MF_RETURN_IF_ERROR(Look(*file, &as_before));
      for (uint64_t piece = offset / piece_bytes_; piece <= (offset + bytes - 1) / piece_bytes_;
           ++piece) {
        MF_RETURN_IF_ERROR(CheckPiece(*file, static_cast<size_t>(piece)));
      }
    }
    MF_ASSIGN_OR_RETURN(const size_t count, file->ReadSome(offset, bytes, data));
    MutexLock lock(mutex_);
    MF_RETURN_IF_ERROR(Look(*file, &as_before));
    if (as_before && count < bytes)
      return Changed("it ends at byte " + std::to_string(offset + count));
  }
  return Status::Ok();
}

}  // namespace mf
