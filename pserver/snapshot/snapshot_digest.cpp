#include "pserver/snapshot/snapshot_digest.h"

#include <fcntl.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/run/json_memory.h"
#include "common/run/versions.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_options.h"

namespace mf {
namespace {

using nlohmann::json;  // its objects sort their keys: dump() is canonical

constexpr uint64_t kMaxDigestBytes = uint64_t{64} << 20;
constexpr int kDepthMax = 3;  // of arrays and objects in each other; what is deeper is no digest

/// Throws json::exception. The library writes, and compares, by recursion: a megabyte of brackets
/// would exhaust the stack.
json ParseFlat(const std::string& text) {
  bool flat = true;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    return flat &= depth <= kDepthMax;
  };
  json root = json::parse(text, watch);
  return flat ? root : json();
}

/// Throws json::exception for what is none. get() also takes fractions, of any size: what becomes
/// of 1e63 is undefined.
uint64_t Unsigned(const json& value) { return value.get_ref<const json::number_unsigned_t&>(); }

}  // namespace

Status Damaged(const std::string& path, const std::string& what) {
  return {Code::kDamaged,
          path + ": " + what + "; this snapshot is damaged: use another one, and look at the disk"};
}

SnapshotSummary SnapshotDigest::Summary() const {
  SnapshotSummary summary{
      .info = info, .spaces = spaces, .files = files.size(), .published_unix = published_unix};
  for (const DigestFile& file : files) summary.file_bytes += file.bytes;
  return summary;
}

std::string EncodeDigest(const SnapshotDigest& digest) {
  constexpr size_t kItemBytes = 256;
  const JsonMemory memory(digest.info.description.size() +
                          kItemBytes * (digest.files.size() + digest.spaces.size()));
  json root;
  root["format"] = kSnapshotFormat.newest;
  root["step"] = digest.info.step;
  root["run_id"] = digest.info.run_id;
  root["description"] = digest.info.description;
  root["shard"] = digest.info.shard;
  root["shards"] = digest.info.shards;
  root["applied"] = digest.info.applied;
  root["published_unix"] = digest.published_unix;
  root["increments"] = digest.increments;
  root["spaces"] = json::array();
  for (const SpaceCount& space : digest.spaces) {
    root["spaces"].push_back(
        {{"space", space.space}, {"entries", space.entries}, {"bytes", space.bytes}});
  }
  root["files"] = json::array();
  for (const DigestFile& file : digest.files) {
    json item = {{"name", file.name}, {"bytes", file.bytes}, {"crc32c", file.crc32c}};
    if (file.is_table()) {
      item["tail"] = file.tail;
      item["tail_crc32c"] = file.tail_crc32c;
    }
    root["files"].push_back(std::move(item));
  }
  constexpr auto kReplace = json::error_handler_t::replace;  // never throws on bad UTF-8
  root["sha256"] = Sha256Hex(root.dump(-1, ' ', false, kReplace));
  return root.dump(1, ' ', false, kReplace) + "\n";
}

Result<SnapshotDigest> DecodeDigest(const std::string& text, const std::string& path) {
  const JsonMemory memory(text.size());
  try {
    json root = ParseFlat(text);
    const std::string sha256 = root.at("sha256").get<std::string>();
    root.erase("sha256");
    if (Sha256Hex(root.dump()) != sha256) return Damaged(path, "its checksum does not match");
    MF_RETURN_IF_ERROR(CheckVersion(kSnapshotFormat, Unsigned(root.at("format")), path));
    SnapshotDigest digest;
    digest.info.step = Unsigned(root.at("step"));
    digest.info.run_id = root.at("run_id").get<std::string>();
    digest.info.description = root.at("description").get<std::string>();
    digest.info.shard = static_cast<uint32_t>(Unsigned(root.at("shard")));
    digest.info.shards = static_cast<uint32_t>(Unsigned(root.at("shards")));
    digest.info.applied = Unsigned(root.at("applied"));
    digest.published_unix = root.at("published_unix").get_ref<const json::number_integer_t&>();
    digest.increments = static_cast<uint32_t>(Unsigned(root.at("increments")));
    for (const json& item : root.at("spaces")) {
      digest.spaces.push_back({static_cast<uint32_t>(Unsigned(item.at("space"))),
                               Unsigned(item.at("entries")), Unsigned(item.at("bytes"))});
    }
    for (const json& item : root.at("files")) {
      DigestFile file;
      file.name = item.at("name").get<std::string>();
      file.bytes = Unsigned(item.at("bytes"));
      file.crc32c = item.at("crc32c").get<std::string>();
      if (file.is_table()) {
        file.tail = Unsigned(item.at("tail"));
        file.tail_crc32c = item.at("tail_crc32c").get<std::string>();
      }
      digest.files.push_back(std::move(file));
    }
    // Nothing may be lost or added unseen: one content has one text.
    if (EncodeDigest(digest) != text) return Damaged(path, "has more or less than it should");
    return digest;
  } catch (const json::exception&) {
    return Damaged(path, "not a digest");
  }
}

Result<SnapshotDigest> LoadDigest(const std::string& folder) {
  const std::string path = folder + "/" + kDigestName;
  if (!FileExists(folder)) return Status::Failed(folder + ": no such snapshot; list the folder");
  if (!FileExists(path)) return Damaged(path, "is missing");
  MF_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxDigestBytes));
  return DecodeDigest(text, path);
}

std::string HexOf(const std::string& raw) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : raw) {
    const auto byte = static_cast<unsigned char>(c);
    hex += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return hex;
}

Result<std::string> Crc32cOfFile(const std::string& path, uint64_t offset) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError(path, "read");
  const auto generator =
      rocksdb::GetFileChecksumGenCrc32cFactory()->CreateFileChecksumGenerator({});
  std::string piece(size_t{1} << 20, '\0');
  Status status;
  for (;;) {
    const ssize_t count = pread(file, piece.data(), piece.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) status = FileError(path, "read");
    if (count <= 0) break;
    generator->Update(piece.data(), static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  close(file);
  MF_RETURN_IF_ERROR(status);
  generator->Finalize();
  return HexOf(generator->GetChecksum());
}

Result<DigestFile> DescribeFile(const std::string& folder, const std::string& name,
                                const std::string& crc32c) {
  const std::string path = folder + "/" + name;
  DigestFile file{.name = name, .bytes = FileBytes(path), .crc32c = crc32c};
  if (crc32c.empty()) {
    MF_ASSIGN_OR_RETURN(file.crc32c, Crc32cOfFile(path, 0));
  }
  if (file.is_table()) {
    rocksdb::SstFileReader reader(ReaderOptions());
    const rocksdb::Status opened = reader.Open(path);
    if (!opened.ok()) return Damaged(path, opened.ToString());
    file.tail = reader.GetTableProperties()->data_size;
    MF_ASSIGN_OR_RETURN(file.tail_crc32c, Crc32cOfFile(path, file.tail));
  }
  return file;
}

Status CheckFiles(const SnapshotDigest& digest, const std::string& folder, bool everything) {
  for (const std::string& name : FileNames(folder)) {
    // NFS keeps a file that is deleted while it is open under such a name.
    const bool known = name == kDigestName || name.starts_with(".nfs") ||
                       std::any_of(digest.files.begin(), digest.files.end(),
                                   [&](const DigestFile& f) { return f.name == name; });
    if (!known) return Damaged(folder + "/" + name, "is no file of this snapshot");
  }
  for (const DigestFile& file : digest.files) {
    const std::string path = folder + "/" + file.name;
    if (!FileExists(path)) return Damaged(path, "is missing");
    if (const uint64_t bytes = FileBytes(path); bytes != file.bytes) {
      return Damaged(
          path, "has " + std::to_string(bytes) + " bytes instead of " + std::to_string(file.bytes));
    }
    const bool whole = everything || !file.is_table();
    MF_ASSIGN_OR_RETURN(const std::string sum, Crc32cOfFile(path, whole ? 0 : file.tail));
    if (sum != (whole ? file.crc32c : file.tail_crc32c))
      return Damaged(path, "its checksum does not match");
  }
  return Status::Ok();
}

}  // namespace mf
