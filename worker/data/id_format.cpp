#include "worker/data/id_format.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/files.h"
#include "worker/data/text_check.h"
#include "worker/data/token_shard.h"

namespace mf {
namespace {

constexpr uint64_t kLlmcHeaderBytes = 1024;
constexpr int64_t kLargestU16Vocabulary = 65536;
constexpr uint64_t kSampleBytes = 1 << 16;  // at the beginning, in the middle, at the end
constexpr size_t kFewestNumbers = 64;       // that say anything
constexpr const char* kHowToSay = "--set data.ids=u16 or u32 (worker eval and score: --ids)";

Status Invalid(const CheckedFile& file, const std::string& what) {
  return Status::Invalid(file.path() + ": " + what);
}

/// The header that llm.c writes before its tokens: magic, version, number of tokens.
struct LlmcHeader {
  bool known = false;
  bool other = false;  // llm.c's, but of no tokens
  uint64_t tokens = 0;
  size_t id_bytes = 2;
};

Result<LlmcHeader> ReadLlmcHeader(const CheckedFile& file) {
  LlmcHeader header;
  uint32_t words[3];
  if (file.bytes() < sizeof(words)) return header;
  MF_RETURN_IF_ERROR(file.Read(0, sizeof(words), words));
  const auto is = [&](uint32_t magic, uint32_t version) {
    return words[0] == magic && words[1] == version;
  };
  header.tokens = words[2];
  header.known = is(20240520, 1) || is(20240801, 7);
  header.id_bytes = words[0] == 20240801 ? 4 : 2;
  const bool of_llmc = words[0] >= 20240326 && words[0] <= 20240801 && words[1] <= 16;
  header.other = !header.known && of_llmc;  // models, optimizer states, evaluations
  return header;
}

/// What the header of `worker prepare` says; nothing without one.
Result<std::optional<IdFormat>> ReadShard(const CheckedFile& file, int64_t vocabulary) {
  char head[ShardHeader::kBytes];
  const size_t count = std::min<uint64_t>(sizeof(head), file.bytes());
  MF_RETURN_IF_ERROR(file.Read(0, count, head));
  const auto header = ShardHeader::Decode({head, count}, file.bytes());
  if (!header.ok()) return Invalid(file, header.status().message());
  if (!header.value().has_value()) return std::optional<IdFormat>();
  const ShardHeader& shard = *header.value();
  if (shard.vocabulary > static_cast<uint64_t>(vocabulary)) {
    return Invalid(file, "prepared for a vocabulary of " + std::to_string(shard.vocabulary) +
                             ", and model.vocabulary is " + std::to_string(vocabulary) +
                             ": set it to as much or more");
  }
  return std::optional(IdFormat{.header_bytes = ShardHeader::kBytes,
                                .id_bytes = shard.id_bytes,
                                .shard = true,
                                .number = shard.shard,
                                .of = shard.shards,
                                .ids_digest = shard.digest,
                                .tokenizer = shard.tokenizer});
}

/// FILE.idx of Megatron: 9 bytes "MMIDIDX\0\0", u64 version, u8 type of the numbers, u64 sequences,
/// u64 documents, i32 length of each sequence, i64 its place in FILE.bin, i64 documents'
/// beginnings. Sequences lie one behind the other, so the last one says how long FILE.bin is.
struct MegatronIndex {
  static constexpr uint64_t kHeadBytes = 34;

  size_t id_bytes = 0;  // 0: no such file, or another kind
  uint64_t bin_bytes = 0;
};

Result<size_t> WidthOfType(uint8_t type, const std::string& path, const std::string& bin) {
  switch (type) {
    case 4:  // int32
      return size_t{4};
    case 3:  // int16
    case 8:  // uint16
      return size_t{2};
    default:
      return Status::Invalid(path + ": says that " + bin + " holds numbers of type " +
                             std::to_string(type) + "; ids of uint16 or int32 are read");
  }
}

Result<MegatronIndex> ReadIndex(const std::string& bin, IdType setting) {
  const std::string path = bin.substr(0, bin.size() - 4) + ".idx";
  if (!bin.ends_with(".bin") || !FileExists(path)) return MegatronIndex();
  MF_ASSIGN_OR_RETURN(const InputFile index, InputFile::Open(path));
  const auto read = [&index](uint64_t at, auto* number) -> Result<bool> {
    MF_ASSIGN_OR_RETURN(const size_t count, index.ReadSome(at, sizeof(*number), number));
    return count == sizeof(*number);
  };
  const Status cut =
      Status::Invalid(path +
                      ": ends in the middle; copy it again, or take it away and say how wide "
                      "ids are (data.ids)");
  char head[MegatronIndex::kHeadBytes] = {};
  MF_ASSIGN_OR_RETURN(const size_t count, index.ReadSome(0, sizeof(head), head));
  if (!std::string_view(head, count).starts_with("MMIDIDX")) {
    if (setting != IdType::kAuto) return MegatronIndex();
    return Status::Invalid(
        path + ": stands beside " + bin +
        " and is no index of Megatron; take it away, or say how wide ids are: " + kHowToSay);
  }
  if (count < sizeof(head)) return cut;
  MegatronIndex found;
  MF_ASSIGN_OR_RETURN(found.id_bytes, WidthOfType(static_cast<uint8_t>(head[17]), path, bin));
  const uint64_t sequences = LoadUnaligned<uint64_t>(head + 18, 0);
  const uint64_t documents = LoadUnaligned<uint64_t>(head + 26, 0);
  const uint64_t bytes = FileBytes(path);
  const bool there = sequences <= bytes / 12 && documents <= bytes / 8 &&
                     sizeof(head) + 12 * sequences + 8 * documents <= bytes;
  if (!there) return cut;
  if (sequences == 0) return found;
  int32_t length = 0;  // of the last sequence
  uint64_t place = 0;
  MF_ASSIGN_OR_RETURN(const bool has_length, read(sizeof(head) + 4 * (sequences - 1), &length));
  MF_ASSIGN_OR_RETURN(const bool has_place,
                      read(sizeof(head) + 4 * sequences + 8 * (sequences - 1), &place));
  if (!has_length || !has_place) return cut;
  found.bin_bytes = place + static_cast<uint64_t>(std::max(length, 0)) * found.id_bytes;
  return found;
}

/// Parts of a file, each a whole number of 8 bytes from the first id on.
class Sample {
 public:
  static Result<Sample> Take(const CheckedFile& file, uint64_t header_bytes) {
    Sample sample;
    const uint64_t bytes = file.bytes() - header_bytes;
    for (const uint64_t at : {uint64_t{0}, bytes / 2, bytes - std::min(bytes, kSampleBytes)}) {
      const uint64_t begin = at / 8 * 8, size = std::min(kSampleBytes, bytes - begin) / 8 * 8;
      std::vector<char>& part = sample.parts_.emplace_back(static_cast<size_t>(size));
      MF_RETURN_IF_ERROR(file.Read(header_bytes + begin, part.size(), part.data()));
    }
    return sample;
  }

  /// All numbers of type T, with their index in a part.
  template <class T>
  void ForEach(const std::function<void(size_t, T)>& use) const {
    for (const std::vector<char>& part : parts_) {
      for (size_t i = 0; i < part.size() / sizeof(T); ++i) use(i, LoadUnaligned<T>(part.data(), i));
    }
  }
  /// As numbers of T every second one is zero, and many others are not: they are wider.
  template <class T>
  bool IsHalfZeros() const {
    size_t odd_not_zero = 0, even_not_zero = 0, even = 0;
    ForEach<T>([&](size_t i, T value) {
      (i % 2 == 0 ? even_not_zero : odd_not_zero) += value != 0;
      even += i % 2 == 0;
    });
    return even >= kFewestNumbers / 2 && odd_not_zero == 0 && even_not_zero * 8 >= even;
  }
  template <class T>
  bool AllBelow(int64_t vocabulary, bool swapped = false) const {
    bool below = true;
    size_t count = 0, not_zero = 0;
    ForEach<T>([&](size_t, T value) {
      uint32_t id = value;
      if (swapped) id = __builtin_bswap32(id) >> (32 - 8 * sizeof(T));
      below &= id < static_cast<uint64_t>(vocabulary);
      not_zero += id != 0;
      ++count;
    });
    return below && count >= kFewestNumbers && not_zero * 8 >= count;
  }
  /// Most numbers of 32 bits would be above the vocabulary: not one id that is too large.
  bool IsMostlyAbove(int64_t vocabulary) const {
    size_t above = 0, count = 0;
    ForEach<uint32_t>([&](size_t, uint32_t id) {
      above += id >= static_cast<uint64_t>(vocabulary);
      ++count;
    });
    return above * 2 > count;
  }
  bool IsText() const {
    TextCheck check;
    for (const std::vector<char>& part : parts_) check.Update(part.data(), part.size());
    return check.Fault().empty();
  }

 private:
  std::vector<std::vector<char>> parts_;
};

/// Ok unless the numbers show that they are no ids of this width.
Status CheckNumbers(const CheckedFile& file, const IdFormat& format) {
  char head[16] = {};
  MF_RETURN_IF_ERROR(file.Read(0, std::min<uint64_t>(sizeof(head), file.bytes()), head));
  if (const std::string known = KnownFormat({head, sizeof(head)}); !known.empty()) {
    return Invalid(
        file, "no token ids but " + known + "; if it is ids nevertheless, say which: " + kHowToSay);
  }
  MF_ASSIGN_OR_RETURN(const Sample sample, Sample::Take(file, format.header_bytes));
  if (sample.IsHalfZeros<uint32_t>()) {
    return Invalid(file,
                   "ids of 64 bits (of every 8 bytes the upper 4 are zero); write them as "
                   "uint16 or uint32, as numpy's ids.astype('<u4').tofile('ids.bin') does");
  }
  if (format.id_bytes == 2 && sample.IsHalfZeros<uint16_t>()) {
    return Invalid(file, std::string("ids of 32 bits, it seems (every second 16 bits are zero), "
                                     "where model.vocabulary means 16; say which: ") +
                             kHowToSay);
  }
  return Status::Ok();
}

}  // namespace

Result<IdFormat> FindIdFormat(const CheckedFile& file, int64_t vocabulary, IdType setting) {
  MF_ASSIGN_OR_RETURN(const std::optional<IdFormat> shard, ReadShard(file, vocabulary));
  if (shard.has_value()) return *shard;
  MF_ASSIGN_OR_RETURN(const LlmcHeader header, ReadLlmcHeader(file));
  IdFormat format;
  if (header.known) {
    format.header_bytes = kLlmcHeaderBytes;
    format.id_bytes = header.id_bytes;
    if (setting != IdType::kAuto && (setting == IdType::kU16 ? 2u : 4u) != format.id_bytes) {
      return Invalid(file, "its header (llm.c) says ids of " + std::to_string(8 * format.id_bytes) +
                               " bits, data.ids another width");
    }
    const uint64_t bytes = kLlmcHeaderBytes + header.tokens * header.id_bytes;
    if (bytes == file.bytes()) return format;
    return Invalid(file, "its header (llm.c) says " + std::to_string(header.tokens) +
                             " tokens, which are " + std::to_string(bytes) + " bytes; it has " +
                             std::to_string(file.bytes()) + ": copy it again");
  }
  MF_ASSIGN_OR_RETURN(const MegatronIndex index, ReadIndex(file.path(), setting));
  format.id_bytes = vocabulary > kLargestU16Vocabulary ? 4 : 2;
  if (index.id_bytes != 0) format.id_bytes = index.id_bytes;
  if (index.id_bytes != 0 && setting != IdType::kAuto &&
      (setting == IdType::kU16 ? 2u : 4u) != index.id_bytes) {
    return Invalid(file, "its index (.idx) says ids of " + std::to_string(8 * index.id_bytes) +
                             " bits, data.ids another width");
  }
  if (index.id_bytes != 0 && index.bin_bytes != file.bytes()) {
    return Invalid(file, "its index (.idx) says " + std::to_string(index.bin_bytes) +
                             " bytes; it has " + std::to_string(file.bytes()) +
                             ": copy both again");
  }
  if (setting != IdType::kAuto) format.id_bytes = setting == IdType::kU16 ? 2 : 4;
  if (setting == IdType::kAuto && header.other) {
    return Invalid(file,
                   std::string("a file of llm.c that holds no tokens (its first number is the "
                               "mark of another kind); if it is ids nevertheless, say which: ") +
                       kHowToSay);
  }
  if (setting == IdType::kAuto) MF_RETURN_IF_ERROR(CheckNumbers(file, format));
  if (file.bytes() % format.id_bytes != 0) {
    return Invalid(file, std::to_string(file.bytes()) + " bytes are no whole number of ids of " +
                             std::to_string(format.id_bytes) +
                             " bytes (u16, or u32 for vocabularies above 65536)");
  }
  return format;
}

std::string AdviceForIds(const CheckedFile& file, const IdFormat& format, int64_t vocabulary) {
  Result<Sample> sample = Sample::Take(file, format.header_bytes);
  if (sample.ok()) {
    const bool wide = format.id_bytes == 4;
    if (sample->IsText())
      return "it looks like text: text files have names that do not end in .bin";
    if (wide ? sample->AllBelow<uint32_t>(vocabulary, true)
             : sample->AllBelow<uint16_t>(vocabulary, true)) {
      return "with their bytes swapped all would fit: write little-endian ids";
    }
    if (wide ? sample->IsMostlyAbove(vocabulary) && sample->AllBelow<uint16_t>(vocabulary)
             : sample->AllBelow<uint32_t>(vocabulary)) {
      return std::string("as ids of ") + (wide ? "16" : "32") + " bits all would fit" + kHowToSay;
    }
  }
  return "set model.vocabulary to more";
}

}  // namespace mf
