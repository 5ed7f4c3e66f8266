#include "worker/prepare/shard_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "common/base/files.h"

namespace mf {

ShardWriter::~ShardWriter() {
  if (file_ >= 0) close(file_);
}

std::string ShardWriter::PathOf(size_t shard, std::string_view suffix) const {
  char number[24];
  std::snprintf(number, sizeof(number), "%05zu", shard);
  return folder_ + "/" + std::string(kShardPrefix) + number + std::string(suffix);
}

Status ShardWriter::OpenShard() {
  const std::string path = PartialPathOf(shards_++);
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0) return FileError(path, "write it");
  hash_ = Sha256();
  ids_in_shard_ = 0;
  return Status::Ok();
}

Status ShardWriter::WriteAll(const void* data, size_t bytes, uint64_t at) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = pwrite(file_, from, bytes, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      if (written == 0) errno = ENOSPC;
      return FileError(PartialPathOf(shards_ - 1), "write it");
    }
    from += written;
    at += static_cast<uint64_t>(written);
    bytes -= static_cast<size_t>(written);
  }
  return Status::Ok();
}

Status ShardWriter::CloseShard() {
  ShardHeader header = header_;
  header.ids = ids_in_shard_;
  header.digest = hash_.Hex();
  header.shard = static_cast<uint32_t>(headers_.size());
  headers_.push_back(std::move(header));
  return CloseFile();
}

Status ShardWriter::CloseFile() {
  const bool synced = fsync(file_) == 0 && close(file_) == 0;
  file_ = -1;
  return synced ? Status::Ok() : FileError(PartialPathOf(shards_ - 1), "sync it");
}

/// How many there are is known now.
Status ShardWriter::WriteHeader(size_t shard) {
  ShardHeader header = headers_[shard];
  header.shards = static_cast<uint32_t>(headers_.size());
  const auto head = header.Encode();
  const std::string path = PartialPathOf(shard);
  file_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file_ < 0) return FileError(path, "write it");
  MF_RETURN_IF_ERROR(WriteAll(head.data(), head.size(), 0));
  return CloseFile();
}

Status ShardWriter::Append(const std::vector<uint32_t>& ids) {
  for (size_t at = 0; at < ids.size();) {
    if (file_ < 0) MF_RETURN_IF_ERROR(OpenShard());
    const size_t count =
        static_cast<size_t>(std::min<uint64_t>(ids.size() - at, shard_ids_ - ids_in_shard_));
    const void* data = ids.data() + at;
    std::vector<uint16_t> narrow;
    if (header_.id_bytes == 2) {
      narrow.assign(ids.begin() + static_cast<ptrdiff_t>(at),
                    ids.begin() + static_cast<ptrdiff_t>(at + count));
      data = narrow.data();
    }
    hash_.Update(data, count * header_.id_bytes);
    MF_RETURN_IF_ERROR(WriteAll(data, count * header_.id_bytes,
                                ShardHeader::kBytes + ids_in_shard_ * header_.id_bytes));
    at += count;
    ids_ += count;
    ids_in_shard_ += count;
    if (ids_in_shard_ == shard_ids_) MF_RETURN_IF_ERROR(CloseShard());
  }
  return Status::Ok();
}

Status ShardWriter::Finish() {
  if (file_ >= 0) MF_RETURN_IF_ERROR(CloseShard());
  for (size_t shard = 0; shard < shards_; ++shard) MF_RETURN_IF_ERROR(WriteHeader(shard));
  for (size_t shard = 0; shard < shards_; ++shard) {
    MF_RETURN_IF_ERROR(RenamePath(PartialPathOf(shard), PathOf(shard, kShardSuffix)));
  }
  return SyncPath(folder_);
}

}  // namespace mf
