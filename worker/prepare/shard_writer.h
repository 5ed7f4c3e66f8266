// Writes ids into a folder as shards of a bounded size (worker/data/token_shard.h). The folder is
// whole once Finish() has returned; until then at least one of its shards has the name of an
// unfinished one. Whose the folder is, and what becomes of unfinished shards: shard_folder.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/digest.h"
#include "common/base/status.h"
#include "worker/data/token_shard.h"

namespace mf {

class ShardWriter {
 public:
  /// Every shard but the last has `shard_ids` ids. `header` says what they are; its count and
  /// digest are filled in.
  ShardWriter(std::string folder, ShardHeader header, uint64_t shard_ids)
      : folder_(std::move(folder)), header_(std::move(header)), shard_ids_(shard_ids) {}
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// kFailed, saying why, if the disk does not take it.
  Status Append(const std::vector<uint32_t>& ids);
  /// Gives the shards their names, durably.
  Status Finish();

  uint64_t ids() const { return ids_; }
  size_t shards() const { return shards_; }

 private:
  std::string PathOf(size_t shard, std::string_view suffix) const;
  std::string PartialPathOf(size_t shard) const { return PathOf(shard, kUnfinishedSuffix); }
  Status OpenShard();
  Status CloseShard();
  Status CloseFile();
  Status WriteHeader(size_t shard);
  Status WriteAll(const void* data, size_t bytes, uint64_t at);

  const std::string folder_;
  const ShardHeader header_;
  const uint64_t shard_ids_;
  int file_ = -1;
  Sha256 hash_;  // of the open shard
  uint64_t ids_in_shard_ = 0;
  uint64_t ids_ = 0;                  // of all
  size_t shards_ = 0;                 // begun
  std::vector<ShardHeader> headers_;  // of those that are closed
};

}  // namespace mf
