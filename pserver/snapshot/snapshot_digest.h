// The file DIGEST of a snapshot: what it is of, how many entries it has, and every other file with
// its size and checksums. It carries a SHA-256 of itself, so from this file on everything in a
// snapshot is checked by something already checked; `format` and that SHA-256 stay as they are in
// every version, so that a newer one is told from a damaged one. Format: docs/SNAPSHOTS.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "pserver/snapshot/snapshot_store.h"

namespace mf {

inline constexpr const char* kDigestName = "DIGEST";

struct DigestFile {
  std::string name;
  uint64_t bytes = 0;
  std::string crc32c;  // 8 hex digits, of the whole file
  /// Tables only: everything behind the data blocks (index, properties, footer) and its checksum.
  /// Data blocks carry one each, so a reader that checks the tail needs no second pass.
  uint64_t tail = 0;
  std::string tail_crc32c = {};

  bool is_table() const { return name.ends_with(".sst"); }
};

struct SnapshotDigest {
  SnapshotInfo info;
  int64_t published_unix = 0;
  uint32_t increments = 0;         // on top of the base
  std::vector<SpaceCount> spaces;  // rising
  std::vector<DigestFile> files;   // sorted by name

  SnapshotSummary Summary() const;
};

std::string EncodeDigest(const SnapshotDigest& digest);
/// `path` is for messages. kInvalid, saying what to do, if it is whole but of a version that is not
/// read (common/run/versions.h).
Result<SnapshotDigest> DecodeDigest(const std::string& text, const std::string& path);
/// Reads and decodes the DIGEST of the snapshot in `folder`.
Result<SnapshotDigest> LoadDigest(const std::string& folder);

/// The outcome of a check that failed: "PATH: WHAT; ...".
/// kDamaged, naming the file.
Status Damaged(const std::string& path, const std::string& what);

/// Checksums of a file from `offset` to its end, in hex: RocksDB's own CRC-32C.
Result<std::string> Crc32cOfFile(const std::string& path, uint64_t offset);
/// A checksum as RocksDB keeps it, in hex.
std::string HexOf(const std::string& raw);
/// Size, checksum and, of a table, the tail's. `crc32c` may be known already; else empty.
Result<DigestFile> DescribeFile(const std::string& folder, const std::string& name,
                                const std::string& crc32c);

/// The folder has the files of the digest and no others, with their sizes; small files and tails
/// are checked, or with `everything` all bytes.
Status CheckFiles(const SnapshotDigest& digest, const std::string& folder, bool everything);

}  // namespace mf
