#include "worker/data/tokens.h"

#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "common/base/buffer.h"
#include "common/base/digest.h"
#include "common/base/input_file.h"
#include "common/base/logging.h"
#include "worker/data/id_format.h"
#include "worker/data/text_check.h"
#include "worker/data/token_shard.h"
#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

// Larger .bin files are checked as they are used: reading all of a corpus first could take hours.
constexpr int64_t kCheckedAtOnce = int64_t{1} << 28;
constexpr size_t kToldFiles = 8;  // that are no text, by name
constexpr int64_t kIdsPerRead = 1 << 14;
constexpr uint64_t kToldBytes = uint64_t{1} << 30;  // reading so much takes seconds
constexpr uint64_t kToldText = uint64_t{64} << 20;  // as making ids of so much does

/// How many are kept open: a quarter of what the process may have, which is often 1024.
size_t HeldFiles() {
  struct rlimit limit;
  const bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0;
  return std::min<size_t>(256, known ? static_cast<size_t>(limit.rlim_cur / 4) : 0);
}

std::string NameOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// `word` stands in the name, between characters that are no letters.
bool HasWord(const std::string& name, const std::string& word) {
  const auto letter = [&](size_t at) {
    return at < name.size() && std::isalpha(static_cast<unsigned char>(name[at])) != 0;
  };
  for (size_t at = name.find(word); at != std::string::npos; at = name.find(word, at + 1)) {
    if (!(at > 0 && letter(at - 1)) && !letter(at + word.size())) return true;
  }
  return false;
}

/// The files of a folder are of one kind; *bins says which. An index beside a
/// .bin is neither, nor is the tokenizer that `worker prepare` puts there.
Status SortKinds(const std::string& folder, std::vector<std::string>* paths, bool* bins) {
  const auto find = [&](auto is) {
    const auto found = std::find_if(paths->begin(), paths->end(), is);
    return found == paths->end() ? std::string() : *found;
  };
  const auto is_bin = [](const std::string& path) { return path.ends_with(".bin"); };
  const std::string bin = find(is_bin);
  *bins = !bin.empty();
  if (!*bins) return Status::Ok();
  const std::string pattern = "give one kind, as in --data '" + folder + "/*.bin'";
  const std::vector<std::string> all = *paths;
  std::erase_if(*paths, [&all](const std::string& path) {
    if (IsKeptTokenizer(NameOf(path))) return true;
    return path.ends_with(".idx") &&
           std::binary_search(all.begin(), all.end(), path.substr(0, path.size() - 4) + ".bin");
  });
  const std::string other = find([&](const std::string& path) { return !is_bin(path); });
  if (!other.empty()) {
    return Status::Invalid(folder + ": a folder of .bin files of token ids, " + bin +
                           ", or of text files, " + other + ", but not of both; " + pattern);
  }
  const auto named = [&](const char* word) {
    return find([&](const std::string& path) { return HasWord(NameOf(path), word); });
  };
  const std::string train = named("train"), held_out = named("val");
  if (train.empty() || held_out.empty()) return Status::Ok();
  return Status::Invalid(folder + ": holds " + train + " and " + held_out +
                         ": held-out data would be trained on; give them apart, as in --data '" +
                         folder + "/*train*.bin' --val '" + folder + "/*val*.bin'");
}

/// Shards of `worker prepare` are complete, by folder: a corpus that was copied in part is no
/// corpus.
class ShardSets {
 public:
  void Add(const std::string& path, const IdFormat& format) {
    if (!format.shard) return;
    Set& set = sets_[path.substr(0, path.rfind('/') + 1)];
    set.shards = std::max(set.shards, format.of);
    const auto [known, is_new] = set.paths.emplace(format.number, path);
    if (!is_new && twice_.empty()) twice_ = path + ": is the same shard as " + known->second;
  }
  Status Check() const {
    constexpr const char* kRemedy =
        "; copy the folder again, or name the shards that are meant, as in --data "
        "'FOLDER/tokens-0000[0-3].bin'";
    if (!twice_.empty()) return Status::Invalid(twice_ + kRemedy);
    for (const auto& [folder, set] : sets_) {
      if (set.paths.size() == set.shards) continue;
      uint32_t missing = 0;
      while (set.paths.contains(missing)) ++missing;
      return Status::Invalid(folder + ": shard " + std::to_string(missing) + " of " +
                             std::to_string(set.shards) + " (from 0) is missing" + kRemedy);
    }
    return Status::Ok();
  }

 private:
  struct Set {
    uint32_t shards = 0;
    std::map<uint32_t, std::string> paths;  // by number
  };
  std::map<std::string, Set> sets_;  // by folder
  std::string twice_;
};

/// What of a folder, or of a file, is no text: everything at once.
class TextFaults {
 public:
  explicit TextFaults(size_t files) : files_(files) {}

  void Add(const std::string& path, TextCheck& check) {
    const std::string fault = check.Fault();
    if (fault.empty()) return;
    bytes_ += check.count();
    if (faulty_++ < kToldFiles) told_ += (told_.empty() ? "" : "; ") + path + ": " + fault;
  }

  Status Told() const {
    if (faulty_ == 0) return Status::Ok();
    std::string what = told_;
    if (faulty_ > kToldFiles) what += "; and " + std::to_string(faulty_ - kToldFiles) + " more";
    if (files_ > 1) {
      what += " (" + std::to_string(bytes_) + " bytes in " + std::to_string(faulty_) + " of " +
              std::to_string(files_) + " files)";
    }
    return Status::Invalid("binary data where text is needed: " + what +
                           "; give UTF-8 text, or token ids as a .bin file, or take every byte as "
                           "it is: --set data.binary=true (worker eval and score: --binary)");
  }

 private:
  const size_t files_;
  size_t faulty_ = 0;
  uint64_t bytes_ = 0;
  std::string told_;
};

}  // namespace

Result<std::shared_ptr<const Tokens>> Tokens::Open(const std::string& path, int64_t vocabulary,
                                                   const Options& options) {
  std::shared_ptr<Tokens> tokens(new Tokens);
  tokens->path_ = path;
  tokens->vocabulary_ = vocabulary;
  if (options.tokenizer != nullptr && !options.tokenizer->content().empty()) {
    tokens->encoder_ = options.tokenizer;
    tokens->end_of_text_ = options.tokenizer->end_of_text();
  }
  MF_ASSIGN_OR_RETURN(DataFiles files, FindDataFiles(path, options.own));
  bool bins = path.ends_with(".bin");
  if (files.folder) MF_RETURN_IF_ERROR(SortKinds(path, &files.paths, &bins));
  MF_RETURN_IF_ERROR(bins ? tokens->OpenBins(files.paths, options, IsFolder(path))
                          : tokens->OpenTexts(files.paths, options));
  if (tokens->size_ == 0) return Status::Invalid(path + ": empty; give a file with text or tokens");
  MF_RETURN_IF_ERROR(tokens->CheckIds());
  if (options.digest) MF_RETURN_IF_ERROR(tokens->FindPieces(options.known));
  return std::shared_ptr<const Tokens>(std::move(tokens));
}

Status Tokens::OpenTexts(const std::vector<std::string>& paths, const Options& options) {
  TextFaults faults(paths.size());
  const size_t held = HeldFiles();
  for (const std::string& path : paths) {
    if (!options.data.binary && (path.ends_with(".jsonl") || path.ends_with(".ndjson"))) {
      return Status::Invalid(
          path +
          ": JSON lines, whose marks would be read as text; make their documents "
          "into shards with worker prepare, or take every byte as it is: --set "
          "data.binary=true (worker eval and score: --binary)");
    }
    Part part;
    MF_ASSIGN_OR_RETURN(part.file, CheckedFile::Open(path, parts_.size() < held));
    part.count = static_cast<int64_t>(part.file->bytes());
    if (part.count == 0) continue;
    TextCheck check;
    std::string text;
    MF_RETURN_IF_ERROR(part.file->ReadAll(options.digest, [&](const char* data, size_t bytes) {
      if (!options.data.binary) check.Update(data, bytes);
      if (encoder_ != nullptr) text.append(data, bytes);
    }));
    if (!options.data.binary) faults.Add(path, check);
    text_bytes_ += part.file->bytes();
    if (encoder_ != nullptr) MF_RETURN_IF_ERROR(EncodePart(text, &part));
    if (part.count == 0) continue;
    if (!parts_.empty() && end_of_text_.has_value()) ++size_;  // of the one before it
    part.begin = size_;
    size_ += part.count;
    parts_.push_back(std::move(part));
  }
  return faults.Told();
}

Status Tokens::EncodePart(const std::string& text, Part* part) const {
  if (text.size() >= kToldText) {
    spdlog::info(
        "{}: makes ids of {} MiB of text and keeps them in memory; worker prepare makes them once "
        "for all",
        part->file->path(), text.size() >> 20);
  }
  if (const Status status = EncodeParts(*encoder_, text, &part->encoded); !status.ok()) {
    return Status(status.code(), part->file->path() + ": " + status.message());
  }
  part->encoded.shrink_to_fit();
  part->count = std::ssize(part->encoded);
  part->id_bytes = sizeof(uint32_t);
  return Status::Ok();
}

Status Tokens::OpenBins(const std::vector<std::string>& paths, const Options& options, bool all) {
  ShardSets sets;
  const size_t held = HeldFiles();
  const std::string expected = options.tokenizer == nullptr ? "" : options.tokenizer->Digest();
  std::string tokenizer;  // of the first file
  for (const std::string& path : paths) {
    Part part;
    MF_ASSIGN_OR_RETURN(part.file, CheckedFile::Open(path, parts_.size() < held));
    if (part.file->bytes() == 0) continue;
    MF_ASSIGN_OR_RETURN(const IdFormat format,
                        FindIdFormat(*part.file, vocabulary_, options.data.ids));
    sets.Add(path, format);
    part.header_bytes = format.header_bytes;
    part.id_bytes = format.id_bytes;
    part.ids_digest = format.ids_digest;
    if (parts_.empty()) tokenizer = format.tokenizer;
    if (format.tokenizer != tokenizer) {
      return Status::Invalid(path + ": prepared with another tokenizer than " +
                             parts_.front().file->path() + ": prepare all of it with one");
    }
    if (format.shard && options.tokenizer != nullptr && format.tokenizer != expected) {
      return Status::Invalid(path +
                             ": was not prepared with the tokenizer of the model; give the text "
                             "itself, or prepare it with that tokenizer");
    }
    part.count = static_cast<int64_t>((part.file->bytes() - format.header_bytes) / format.id_bytes);
    part.begin = size_;
    size_ += part.count;
    if (part.count > 0) parts_.push_back(std::move(part));
  }
  return all ? sets.Check() : Status::Ok();
}

Status Tokens::FindPieces(const DigestStore* known) {
  for (const Part& part : parts_) {
    CheckedFile& file = *part.file;
    if (!file.pieces().empty()) continue;  // of a text, which was read whole
    if (known != nullptr && file.Adopt(known->Find(file.path(), file.identity()))) continue;
    if (file.bytes() >= kToldBytes) {
      spdlog::info("{}: reads {} MiB once, to know them again", file.path(), file.bytes() >> 20);
    }
    MF_RETURN_IF_ERROR(ReadWhole(part));
  }
  return Status::Ok();
}

Status Tokens::ReadWhole(const Part& part) {
  Sha256 hash;
  uint64_t header = part.header_bytes;  // left of it
  MF_RETURN_IF_ERROR(part.file->ReadAll(/*digest=*/true, [&](const char* data, size_t bytes) {
    const uint64_t skipped = std::min<uint64_t>(header, bytes);
    header -= skipped;
    if (!part.ids_digest.empty()) hash.Update(data + skipped, bytes - skipped);
  }));
  if (part.ids_digest.empty() || hash.Hex() == part.ids_digest) return Status::Ok();
  return Status::Invalid(part.file->path() +
                         ": its ids are not those that were prepared (their SHA-256 differs from "
                         "the header's): copy it again");
}

Status Tokens::CheckIds() const {
  // Of text only the largest byte matters, and small vocabularies are rare.
  if (parts_[0].id_bytes == 1 && vocabulary_ > kBytesEndOfText) return Status::Ok();
  std::vector<uint32_t> chunk(1 << 16);
  const int64_t checked = std::min(size_, kCheckedAtOnce);
  for (int64_t at = 0; at < checked; at += static_cast<int64_t>(chunk.size())) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(chunk.size()), checked - at);
    MF_RETURN_IF_ERROR(Copy(at, count, chunk.data()));
  }
  return Status::Ok();
}

Status Tokens::AboveVocabulary(const Part* part, int64_t position, uint32_t id) const {
  const bool bin = part != nullptr && part->id_bytes > 1;
  const std::string advice =
      bin ? AdviceForIds(*part->file, {part->header_bytes, part->id_bytes}, vocabulary_)
          : "set model.vocabulary to more";
  return Status::Invalid((part == nullptr ? path_ : part->file->path()) + ": token id " +
                         std::to_string(id) + " at position " + std::to_string(position) +
                         " is above the vocabulary of " + std::to_string(vocabulary_) + "; " +
                         advice);
}

Status Tokens::CopyPart(const Part& part, int64_t first, int64_t count, uint32_t* ids) const {
  if (!part.encoded.empty()) {
    std::copy_n(part.encoded.begin() + first, count, ids);
    const auto above = std::find_if(
        ids, ids + count, [&](uint32_t id) { return id >= static_cast<uint64_t>(vocabulary_); });
    return above == ids + count ? Status::Ok()
                                : AboveVocabulary(nullptr, first + (above - ids), *above);
  }
  std::vector<std::byte> bytes(static_cast<size_t>(std::min(count, kIdsPerRead)) * part.id_bytes);
  for (int64_t done = 0; done < count;) {
    const int64_t some = std::min(count - done, kIdsPerRead);
    const uint64_t at =
        part.header_bytes + static_cast<uint64_t>(first + done) * uint64_t{part.id_bytes};
    MF_RETURN_IF_ERROR(
        part.file->Read(at, static_cast<size_t>(some) * part.id_bytes, bytes.data()));
    uint32_t* const to = ids + done;
    uint32_t largest = 0;
    const auto widen = [&]<class T>(T) {
      for (size_t i = 0; i < static_cast<size_t>(some); ++i) {
        to[i] = LoadUnaligned<T>(bytes.data(), i);
        largest = std::max(largest, to[i]);
      }
    };
    part.id_bytes == 1   ? widen(uint8_t{})
    : part.id_bytes == 2 ? widen(uint16_t{})
                         : widen(uint32_t{});
    if (largest >= static_cast<uint64_t>(vocabulary_)) {
      int64_t i = 0;
      while (to[i] < static_cast<uint64_t>(vocabulary_)) ++i;
      return AboveVocabulary(&part, first + done + i, to[i]);
    }
    done += some;
  }
  return Status::Ok();
}

Status Tokens::Copy(int64_t begin, int64_t count, uint32_t* ids) const {
  MF_CHECK(begin >= 0 && count >= 0 && count <= size_ && begin <= size_ - count);
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), begin,
                                      [](int64_t at, const Part& part) { return at < part.begin; });
  for (auto part = after - 1; count > 0; ++part) {
    const int64_t first = begin - part->begin;  // beyond the part at an end-of-text after it
    const int64_t some = std::min(count, part->count - first);
    MF_RETURN_IF_ERROR(CopyPart(*part, first, some, ids));
    begin += some;
    count -= some;
    ids += some;
    if (count == 0) break;
    if (std::next(part)->begin == begin) continue;  // .bin files follow each other
    if (*end_of_text_ >= vocabulary_) return AboveVocabulary(nullptr, begin, *end_of_text_);
    *ids++ = *end_of_text_;
    ++begin;
    --count;
  }
  return Status::Ok();
}

std::string Tokens::Digest() const {
  Sha256 hash;
  if (encoder_ != nullptr) hash.Update("text by tokenizer " + encoder_->Digest() + "\n");
  for (const Part& part : parts_) {
    hash.Update("ids of " + std::to_string(8 * part.id_bytes) + " bits from byte " +
                std::to_string(part.header_bytes) + " of " + std::to_string(part.file->bytes()) +
                " bytes " + part.file->Digest() + "\n");
  }
  return hash.Hex();
}

std::string Tokens::CommonFile(const Tokens& other) const {
  std::map<std::string, const Part*> known;
  for (const Part& part : parts_) known.emplace(part.file->Digest(), &part);
  for (const Part& part : other.parts_) {
    const auto found = known.find(part.file->Digest());
    if (found == known.end()) continue;
    return found->second->file->path() + " and " + part.file->path() + " (sha256 " + found->first +
           ")";
  }
  return "";
}

void Tokens::AddTo(DigestStore* store) const {
  for (const Part& part : parts_) {
    const CheckedFile& file = *part.file;
    if (part.id_bytes == 1 || !part.encoded.empty() || file.pieces().size() < 2) continue;
    store->Add(file.path(), file.identity(), file.pieces());
  }
}

}  // namespace mf
