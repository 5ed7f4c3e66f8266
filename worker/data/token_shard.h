// A shard of token ids as `worker prepare` writes it: a header that says what the ids are, so that
// no reader has to guess, and the ids, unsigned and little-endian. Header, 128 bytes:
//     0  "MFTOKENS"            32  SHA-256 of the tokenizer's file; zeros: bytes are tokens
//     8  u32 version, 1        64  SHA-256 of the ids
//    12  u32 bytes of an id    96  u32 the id that ends a document; 0xFFFFFFFF: none
//    16  u64 vocabulary       100  u32 number of this shard, from 0
//    24  u64 ids              104  u32 shards in all; zeros
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/input_file.h"
#include "common/base/status.h"

namespace mf {

/// A shard is called tokens-NNNNN.bin, and so with .partial behind it until all of its folder are
/// done.
inline constexpr std::string_view kShardPrefix = "tokens-", kShardSuffix = ".bin",
                                  kUnfinishedSuffix = ".bin.partial";
inline bool IsUnfinishedShard(std::string_view name) {
  return name.starts_with(kShardPrefix) && name.ends_with(kUnfinishedSuffix);
}

/// What the tokenizer's file is called beside the shards.
inline constexpr std::array kKeptTokenizers = {"tokenizer.json", "tokenizer.model"};
inline bool IsKeptTokenizer(std::string_view name) {
  return name == kKeptTokenizers[0] || name == kKeptTokenizers[1];
}

struct ShardHeader {
  static constexpr size_t kBytes = 128;

  uint32_t id_bytes = 2;  // 2 or 4
  uint64_t vocabulary = 0;
  uint64_t ids = 0;
  std::string tokenizer = {};  // SHA-256 in hex; empty: bytes
  std::string digest = {};     // SHA-256 of the ids, in hex
  std::optional<uint32_t> end_of_text = {};
  uint32_t shard = 0, shards = 1;  // so that one that is missing is missed

  std::array<char, kBytes> Encode() const;
  /// Nothing if it is no header of a shard. kInvalid, in words without the file's name, if it is
  /// one of another version or a damaged one, or does not fit a file of `file_bytes` bytes.
  static Result<std::optional<ShardHeader>> Decode(std::string_view head, uint64_t file_bytes);
  bool operator==(const ShardHeader&) const = default;
};

/// The header of the file, as ShardHeader::Decode(); kFailed if it cannot be read.
Result<std::optional<ShardHeader>> ReadShardHeader(const InputFile& file);

}  // namespace mf
