#include "worker/data/token_shard.h"

#include <cstring>

#include "common/base/buffer.h"
#include "common/base/digest.h"

namespace mf {
namespace {

constexpr std::string_view kMagic = "MFTOKENS";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kNoEnd = 0xFFFFFFFF;
constexpr size_t kDigestBytes = 32;

template <class T>
void Put(T value, size_t at, std::array<char, ShardHeader::kBytes>* head) {
  std::memcpy(head->data() + at, &value, sizeof(value));  // every machine here is little-endian
}
template <class T>
T Get(std::string_view head, size_t at) {
  return LoadUnaligned<T>(head.data() + at, 0);
}

int HexDigit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

void PutDigest(const std::string& hex, size_t at, std::array<char, ShardHeader::kBytes>* head) {
  for (size_t i = 0; i < hex.size() / 2; ++i) {
    Put(static_cast<char>(HexDigit(hex[2 * i]) << 4 | HexDigit(hex[2 * i + 1])), at + i, head);
  }
}
/// Empty for zeros.
std::string GetDigest(std::string_view head, size_t at) {
  const std::string_view bytes = head.substr(at, kDigestBytes);
  if (bytes.find_first_not_of('\0') == std::string_view::npos) return "";
  std::string hex;
  for (const char c : bytes) {
    for (const int shift : {4, 0}) hex += "0123456789abcdef"[static_cast<uint8_t>(c) >> shift & 15];
  }
  return hex;
}

}  // namespace

std::array<char, ShardHeader::kBytes> ShardHeader::Encode() const {
  std::array<char, kBytes> head{};
  kMagic.copy(head.data(), kMagic.size());
  Put(kVersion, 8, &head);
  Put(id_bytes, 12, &head);
  Put(vocabulary, 16, &head);
  Put(ids, 24, &head);
  PutDigest(tokenizer, 32, &head);
  PutDigest(digest, 64, &head);
  Put(end_of_text.value_or(kNoEnd), 96, &head);
  Put(shard, 100, &head);
  Put(shards, 104, &head);
  return head;
}

Result<std::optional<ShardHeader>> ShardHeader::Decode(std::string_view head, uint64_t file_bytes) {
  if (!head.starts_with(kMagic)) return std::optional<ShardHeader>();
  if (head.size() < kBytes) return Status::Invalid("its header is cut: copy it again");
  if (const auto version = Get<uint32_t>(head, 8); version != kVersion) {
    return Status::Invalid("prepared by another version (format " + std::to_string(version) +
                           ", this program reads " + std::to_string(kVersion) +
                           "): prepare the text again");
  }
  ShardHeader header{.id_bytes = Get<uint32_t>(head, 12),
                     .vocabulary = Get<uint64_t>(head, 16),
                     .ids = Get<uint64_t>(head, 24),
                     .tokenizer = GetDigest(head, 32),
                     .digest = GetDigest(head, 64),
                     .end_of_text = Get<uint32_t>(head, 96),
                     .shard = Get<uint32_t>(head, 100),
                     .shards = Get<uint32_t>(head, 104)};
  if (header.end_of_text == kNoEnd) header.end_of_text.reset();
  const bool known = (header.id_bytes == 2 || header.id_bytes == 4) && header.vocabulary > 0 &&
                     header.shard < header.shards;
  if (!known) return Status::Invalid("its header is damaged: copy it again");
  const uint64_t bytes = file_bytes - kBytes;
  if (bytes % header.id_bytes != 0 || bytes / header.id_bytes != header.ids) {
    return Status::Invalid("its header says " + std::to_string(header.ids) + " ids of " +
                           std::to_string(header.id_bytes) + " bytes, and " +
                           std::to_string(bytes) + " bytes follow: copy it again");
  }
  return std::optional(std::move(header));
}

Result<std::optional<ShardHeader>> ReadShardHeader(const InputFile& file) {
  char head[ShardHeader::kBytes];
  MF_ASSIGN_OR_RETURN(const FileIdentity identity, file.Identity());
  MF_ASSIGN_OR_RETURN(const size_t count, file.ReadSome(0, sizeof(head), head));
  return ShardHeader::Decode({head, count}, identity.bytes);
}

}  // namespace mf
