#include "worker/data/digest_store.h"

#include <sstream>
#include <string_view>
#include <utility>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "common/run/versions.h"

namespace mf {
namespace {

// First line, with the version of the format, then per file: device inode bytes modified changed
// number-of-pieces path, a piece per line; last line: the digest of all before it.
constexpr std::string_view kFirstWord = "mf-data-digests ";
constexpr uint64_t kMostBytes = 1 << 26;  // of a million pieces, 64 TB
constexpr size_t kDigestDigits = 64;

std::string FirstLine() {
  return std::string(kFirstWord) + std::to_string(kDigestStoreFormat.newest);
}

/// Ok for what is no store at all, too.
Status CheckFirstLine(const std::string& line, const std::string& path) {
  uint32_t version = 0;
  if (!line.starts_with(kFirstWord)) return Status::Ok();
  std::istringstream(line.substr(kFirstWord.size())) >> version;
  const Status known = CheckVersion(kDigestStoreFormat, version, path);
  if (known.ok() || version == 0) return Status::Ok();
  return Status::Invalid(known.message() + ", or delete the file: it only saves time");
}

}  // namespace

Result<DigestStore> DigestStore::Load(const std::string& path) {
  DigestStore store;
  if (!FileExists(path)) return store;
  Result<std::string> text = ReadSmallFile(path, kMostBytes);
  if (!text.ok() || text->size() < kDigestDigits + 1) return store;
  const size_t body = text->size() - kDigestDigits - 1;
  if (Sha256Hex(text->substr(0, body)) + "\n" != text->substr(body)) return store;
  std::istringstream lines(text->substr(0, body));
  std::string line;
  if (!std::getline(lines, line)) return store;
  MF_RETURN_IF_ERROR(CheckFirstLine(line, path));
  if (line != FirstLine()) return store;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    Entry entry;
    size_t pieces = 0;
    FileIdentity& id = entry.identity;
    words >> id.device >> id.inode >> id.bytes >> id.modified_ns >> id.changed_ns >> pieces;
    std::string file;
    if (!std::getline(words >> std::ws, file)) return DigestStore();
    for (size_t i = 0; i < pieces; ++i) {
      if (!std::getline(lines, line) || line.size() != kDigestDigits) return DigestStore();
      entry.pieces.push_back(line);
    }
    store.entries_[file] = std::move(entry);
  }
  return store;
}

std::vector<std::string> DigestStore::Find(const std::string& file,
                                           const FileIdentity& identity) const {
  const auto found = entries_.find(file);
  if (found == entries_.end() || found->second.identity != identity) return {};
  return found->second.pieces;
}

void DigestStore::Add(const std::string& file, const FileIdentity& identity,
                      std::vector<std::string> pieces) {
  if (file.find_first_of("\r\n") != std::string::npos) return;  // one that no line can hold
  entries_[file] = {identity, std::move(pieces)};
}

Status DigestStore::Save(const std::string& path) const {
  std::ostringstream text;
  text << FirstLine() << "\n";
  for (const auto& [file, entry] : entries_) {
    const FileIdentity& id = entry.identity;
    text << id.device << ' ' << id.inode << ' ' << id.bytes << ' ' << id.modified_ns << ' '
         << id.changed_ns << ' ' << entry.pieces.size() << ' ' << file << "\n";
    for (const std::string& piece : entry.pieces) text << piece << "\n";
  }
  return PublishFile(path, text.str() + Sha256Hex(text.str()) + "\n");
}

}  // namespace mf
