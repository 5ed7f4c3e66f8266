#include "worker/data/text_check.h"

#include <algorithm>
#include <cstring>

namespace mf {
namespace {

constexpr size_t kHeadBytes = 64;
constexpr size_t kPlaces = 6;  // NUL bytes that are told one by one

/// Length of the well-formed UTF-8 character at text[at], or 0; *cut if the text ends inside one.
size_t Utf8Length(std::string_view text, size_t at, bool* cut) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  size_t length = 0;
  if (lead < 0x80) length = 1;
  if (lead >= 0xC2 && lead < 0xE0) length = 2;
  if (lead >= 0xE0 && lead < 0xF0) length = 3;
  if (lead >= 0xF0 && lead < 0xF5) length = 4;
  const size_t there = std::min(length, text.size() - at);
  for (size_t i = 1; i < there; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  *cut = there < length;
  return *cut ? 0 : length;
}

/// All eight are ASCII and no control characters.
bool IsPlain(const char* at) {
  constexpr uint64_t kHigh = 0x8080808080808080, kSpaces = 0x2020202020202020;
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return ((word | (word - kSpaces)) & kHigh) == 0;
}

bool IsControl(unsigned char c) {
  return c < 32 && (c == 0 || std::strchr("\t\n\v\f\r\b\x1b", c) == nullptr);
}

}  // namespace

std::string KnownFormat(std::string_view head) {
  struct Known {
    std::string_view begin;
    const char* name;
  };
  using namespace std::string_view_literals;
  static constexpr Known kKnown[] = {
      {"\x1f\x8b\x08"sv, "gzip-compressed; unpack it"},
      {"\x28\xb5\x2f\xfd"sv, "zstd-compressed; unpack it"},
      {"BZh"sv, "bzip2-compressed; unpack it"},
      {"\xfd"
       "7zXZ\0"sv,
       "xz-compressed; unpack it"},
      {"7z\xbc\xaf\x27\x1c"sv, "a 7z archive; unpack it"},
      {"PK\x03\x04"sv, "a zip archive (PyTorch and numpy write them, too); unpack it"},
      {"PAR1"sv, "Parquet; write its text column to text files"},
      {"ARROW1"sv, "Arrow; write its text column to text files"},
      {"\x93NUMPY"sv, "a numpy array; write its ids by ids.astype('<u2').tofile('ids.bin')"},
      {"\x89HDF"sv, "HDF5; write its text to text files"},
      {"SQLite format 3\0"sv, "an SQLite database; write its text to text files"},
      {"%PDF-"sv, "PDF; extract its text"},
      {"\x7f"
       "ELF"sv,
       "a program"},
      {"GGUF"sv, "a model (GGUF)"},
      {"MMIDIDX\0"sv, "the index of a Megatron data set; give the .bin beside it"},
  };
  for (const Known& known : kKnown) {
    if (head.starts_with(known.begin)) return known.name;
  }
  return "";
}

void TextCheck::Update(const char* data, size_t bytes) {
  if (head_.size() < kHeadBytes) head_.append(data, std::min(bytes, kHeadBytes - head_.size()));
  if (pending_.empty()) return Look({data, bytes}, /*last=*/false);
  const std::string text = std::move(pending_) + std::string(data, bytes);
  pending_.clear();
  Look(text, /*last=*/false);
}

void TextCheck::Look(std::string_view text, bool last) {
  size_t at = 0;
  while (at < text.size()) {
    if (at + 8 <= text.size() && IsPlain(text.data() + at)) {
      at += 8;
      continue;
    }
    const unsigned char c = static_cast<unsigned char>(text[at]);
    if (c == 0) {
      ++nul_at_[(bytes_ + at) % 4];
      if (first_nuls_.size() < kPlaces) first_nuls_.push_back(bytes_ + at);
      ++at;
      continue;
    }
    bool cut = false;
    const size_t length = Utf8Length(text, at, &cut);
    if (cut && !last) break;
    if (length == 0 || IsControl(c)) {
      if (strange_++ == 0) first_strange_ = bytes_ + at;
    }
    at += std::max<size_t>(length, 1);
  }
  bytes_ += at;
  pending_ = text.substr(at);
}

uint64_t TextCheck::count() const {
  const uint64_t nuls = nul_at_[0] + nul_at_[1] + nul_at_[2] + nul_at_[3];
  return nuls > 0 || strange_ * 10 > bytes_ ? nuls + strange_ : 0;
}

std::string TextCheck::Encoding() const {
  using namespace std::string_view_literals;
  const uint64_t odd = nul_at_[1] + nul_at_[3], even = nul_at_[0] + nul_at_[2], all = odd + even;
  const auto convert = [](const std::string& name) {
    return name + " text; convert it: iconv -f " + name + " -t UTF-8";
  };
  // Without a mark at its beginning: the upper bytes of its letters are zero.
  const auto full = [&](size_t position) { return nul_at_[position] * 80 >= bytes_ * 19; };
  if (head_.starts_with("\xff\xfe\0\0"sv) || head_.starts_with("\0\0\xfe\xff"sv)) {
    return convert("UTF-32");
  }
  if (full(2) && full(3) && !full(0)) return convert("UTF-32LE");
  if (full(0) && full(1) && !full(3)) return convert("UTF-32BE");
  if (head_.starts_with("\xff\xfe"sv) || head_.starts_with("\xfe\xff"sv)) return convert("UTF-16");
  if (all * 5 > bytes_ && odd * 10 > all * 9) return convert("UTF-16LE");
  if (all * 5 > bytes_ && even * 10 > all * 9) return convert("UTF-16BE");
  return "";
}

std::string TextCheck::Fault() {
  const std::string rest = std::move(pending_);
  pending_.clear();
  Look(rest, /*last=*/true);
  if (count() == 0) return "";
  if (const std::string known = KnownFormat(head_); !known.empty()) return known;
  if (const std::string encoding = Encoding(); !encoding.empty()) return encoding;
  if (first_nuls_.empty()) {
    return std::to_string(strange_) + " places that are no UTF-8 text, the first at byte " +
           std::to_string(first_strange_);
  }
  const uint64_t nuls = nul_at_[0] + nul_at_[1] + nul_at_[2] + nul_at_[3];
  std::string text = std::to_string(nuls) + (nuls == 1 ? " NUL byte (byte " : " NUL bytes (byte ");
  for (size_t i = 0; i < first_nuls_.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(first_nuls_[i]);
  }
  return text + (nuls > first_nuls_.size() ? ", ...)" : ")");
}

}  // namespace mf
