#include "worker/data/tokens.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/base/buffer.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

// Larger .bin files are checked as they are used: reading all of a corpus first could take hours.
constexpr int64_t kCheckedAtOnce = int64_t{1} << 28;

/// Length of the well-formed UTF-8 character at text[at], or 0.
size_t Utf8Length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  size_t length = 0;
  if (lead < 0x80) length = 1;
  if (lead >= 0xC2 && lead < 0xE0) length = 2;
  if (lead >= 0xE0 && lead < 0xF0) length = 3;
  if (lead >= 0xF0 && lead < 0xF5) length = 4;
  if (length == 0 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

/// The position of what makes this binary data, or npos for text. A NUL byte never is text.
/// Otherwise a tenth of the bytes may be control characters or not UTF-8: text in Latin-1 passes,
/// compressed data does not.
size_t BinaryAt(const std::string& text) {
  size_t strange = 0, first = std::string::npos;
  for (size_t at = 0; at < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[at]);
    if (c == 0) return at;
    const size_t length = Utf8Length(text, at);
    const bool control = c < 32 && std::strchr("\t\n\v\f\r\b\x1b", c) == nullptr;
    if (length == 0 || control) {
      ++strange;
      first = std::min(first, at);
    }
    at += std::max<size_t>(length, 1);
  }
  return strange * 10 > text.size() ? first : std::string::npos;
}

}  // namespace

Result<std::string> ReadTextFile(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    return Status::Invalid(path + ": no such file; give an existing text file");
  }
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in && !fs::is_directory(path, error)) {
    text.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  if (!in || fs::is_directory(path, error)) {
    return Status::Invalid(path + ": cannot be read as a text file");
  }
  if (const size_t at = BinaryAt(text); at != std::string::npos) {
    return Status::Invalid(path + ": binary data where text is needed (byte " + std::to_string(at) +
                           "); give UTF-8 text, or token ids as a .bin file");
  }
  return text;
}

Result<std::shared_ptr<const Tokens>> Tokens::Open(const std::string& path, int64_t vocabulary) {
  std::shared_ptr<Tokens> tokens(new Tokens);
  tokens->path_ = path;
  tokens->vocabulary_ = vocabulary;
  std::error_code error;
  if (!fs::exists(path, error)) {
    return Status::Invalid(path +
                           ": no such file or directory; --data and --val take text files, "
                           "directories of them, or .bin tokens");
  }
  if (fs::is_directory(path, error)) {
    MF_RETURN_IF_ERROR(tokens->ReadFolder(path));
  } else if (path.ends_with(".bin")) {
    MF_RETURN_IF_ERROR(tokens->MapBin(path));
  } else {
    MF_RETURN_IF_ERROR(tokens->ReadText(path));
  }
  if (tokens->size_ == 0) return Status::Invalid(path + ": empty; give a file with text or tokens");
  std::vector<uint32_t> chunk(1 << 16);
  const int64_t checked = std::min(tokens->size_, kCheckedAtOnce);
  for (int64_t at = 0; at < checked; at += static_cast<int64_t>(chunk.size())) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(chunk.size()), checked - at);
    MF_RETURN_IF_ERROR(tokens->Copy(at, count, chunk.data()));
  }
  return std::shared_ptr<const Tokens>(std::move(tokens));
}

Tokens::~Tokens() {
  if (map_ != nullptr) munmap(const_cast<std::byte*>(map_), map_bytes_);
}

Status Tokens::ReadText(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  AppendBytes(text);
  return Status::Ok();
}

Status Tokens::ReadFolder(const std::string& path) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator it(path, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(".")) {
      if (it->is_directory(error)) it.disable_recursion_pending();
      continue;
    }
    if (it->is_regular_file(error)) files.push_back(it->path().string());
  }
  if (error) return Status::Invalid(path + ": cannot be read: " + error.message());
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    if (file.ends_with(".bin")) {
      return Status::Invalid(file + ": a directory holds text files; give a .bin file by itself");
    }
    MF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file));
    if (text.empty()) continue;
    if (!text_.empty()) text_.push_back(static_cast<uint16_t>(kEndOfText));
    AppendBytes(text);
  }
  size_ = static_cast<int64_t>(text_.size());
  return Status::Ok();
}

void Tokens::AppendBytes(const std::string& text) {
  text_.reserve(text_.size() + text.size());
  for (const char c : text) text_.push_back(static_cast<unsigned char>(c));
  size_ = static_cast<int64_t>(text_.size());
}

Status Tokens::MapBin(const std::string& path) {
  id_bytes_ = vocabulary_ > 65536 ? 4 : 2;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) {
    if (fd >= 0) close(fd);
    return Status::Invalid(path + ": cannot open it: " + std::strerror(errno));
  }
  map_bytes_ = static_cast<size_t>(info.st_size);
  if (map_bytes_ % id_bytes_ != 0) {
    close(fd);
    return Status::Invalid(path + ": " + std::to_string(map_bytes_) +
                           " bytes are no whole number of ids of " + std::to_string(id_bytes_) +
                           " bytes (u16, or u32 for vocabularies above 65536)");
  }
  if (map_bytes_ > 0) {
    void* map = mmap(nullptr, map_bytes_, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      close(fd);
      return Status::Failed(path + ": cannot map it: " + std::strerror(errno));
    }
    map_ = static_cast<const std::byte*>(map);
  }
  close(fd);
  size_ = static_cast<int64_t>(map_bytes_ / id_bytes_);
  return Status::Ok();
}

Status Tokens::AboveVocabulary(int64_t position, uint32_t id) const {
  return Status::Invalid(path_ + ": token id " + std::to_string(id) + " at position " +
                         std::to_string(position) + " is above the vocabulary of " +
                         std::to_string(vocabulary_) + "; set model.vocabulary to more");
}

Status Tokens::Copy(int64_t begin, int64_t count, uint32_t* ids) const {
  MF_CHECK(begin >= 0 && count >= 0 && count <= size_ && begin <= size_ - count);
  for (int64_t i = 0; i < count; ++i) {
    const size_t at = static_cast<size_t>(begin + i);
    if (map_ == nullptr) {
      ids[i] = text_[at];
    } else if (id_bytes_ == 2) {
      ids[i] = LoadUnaligned<uint16_t>(map_, at);
    } else {
      ids[i] = LoadUnaligned<uint32_t>(map_, at);
    }
    if (ids[i] >= static_cast<uint64_t>(vocabulary_)) return AboveVocabulary(begin + i, ids[i]);
  }
  return Status::Ok();
}

}  // namespace mf
