#include "worker/prepare/prepare.h"

#include <array>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "worker/data/data_files.h"
#include "worker/data/token_shard.h"
#include "worker/prepare/shard_folder.h"
#include "worker/prepare/shard_writer.h"
#include "worker/prepare/text_pieces.h"
#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

constexpr size_t kRoundBytes = size_t{2} << 20;  // of text, for each thread
constexpr int64_t kNarrowVocabulary = 65536;

/// A piece, and what becomes of it.
struct Work {
  TextPiece piece;
  std::vector<uint32_t> ids = {};
  std::string digest = {};  // of a whole document's text, where duplicates are dropped
  uint64_t text_bytes = 0;
  Status status = {};
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const Tokenizer& tokenizer, ThreadPool& pool,
              std::vector<std::string> paths)
      : options_(options),
        tokenizer_(tokenizer),
        pool_(pool),
        pieces_(std::move(paths), options.binary),
        writer_(options.out,
                {.id_bytes = tokenizer.vocabulary() > kNarrowVocabulary ? 4u : 2u,
                 .vocabulary = static_cast<uint64_t>(tokenizer.vocabulary()),
                 .tokenizer = tokenizer.Digest(),
                 .end_of_text = tokenizer.end_of_text()},
                options.shard_ids) {
    report_.files = pieces_.paths().size();
  }

  /// A round: as much as all threads can work on. False after the last.
  Result<bool> Round() {
    MF_ASSIGN_OR_RETURN(std::vector<Work> round, Read());
    pool_.ParallelFor(round.size(), [&](size_t i, int) { Encode(&round[i]); });
    for (Work& work : round) MF_RETURN_IF_ERROR(Write(&work));
    return !round.empty();
  }
  Result<PrepareReport> Finish() {
    MF_RETURN_IF_ERROR(writer_.Finish());
    return report();
  }

  PrepareReport report() const {
    PrepareReport report = report_;
    report.ids = writer_.ids();
    report.shards = writer_.shards();
    return report;
  }
  uint64_t taken() const { return pieces_.taken(); }

 private:
  Result<std::vector<Work>> Read() {
    std::vector<Work> round;
    size_t bytes = 0;
    while (bytes < kRoundBytes * static_cast<size_t>(pool_.threads())) {
      MF_ASSIGN_OR_RETURN(std::optional<TextPiece> piece, pieces_.Next());
      if (!piece.has_value()) break;
      bytes += piece->bytes.size();
      round.push_back({.piece = std::move(*piece)});
    }
    return round;
  }

  void Encode(Work* work) const {
    TextPiece& piece = work->piece;
    const std::string& path = pieces_.paths()[piece.file];
    if (piece.json) work->status = ReadJsonLine(path, options_.field, &piece);
    if (!work->status.ok()) return;
    work->text_bytes = piece.bytes.size();
    if (options_.drop_duplicates && piece.begins && piece.ends) {
      work->digest = Sha256Hex(piece.bytes);
    }
    work->status = EncodeParts(tokenizer_, piece.bytes, &work->ids);
    if (!work->status.ok()) {
      work->status = Status(work->status.code(), path + ": " + work->status.message());
    }
    if (piece.ends && tokenizer_.end_of_text().has_value()) {
      work->ids.push_back(*tokenizer_.end_of_text());
    }
    piece.bytes = {};
  }

  Status Write(Work* work) {
    MF_RETURN_IF_ERROR(work->status);
    if (!work->digest.empty() && !seen_.insert(ShortOf(work->digest)).second) {
      ++report_.duplicates;
      return Status::Ok();
    }
    report_.documents += work->piece.ends ? 1 : 0;
    report_.text_bytes += work->text_bytes;
    return writer_.Append(work->ids);
  }

  /// 128 bits of it: of a billion documents none is taken for another one.
  using Short = std::array<uint64_t, 2>;
  static Short ShortOf(const std::string& hex) {
    return {std::stoull(hex.substr(0, 16), nullptr, 16),
            std::stoull(hex.substr(16, 16), nullptr, 16)};
  }
  struct Hash {
    size_t operator()(const Short& digest) const { return static_cast<size_t>(digest[0]); }
  };

  const PrepareOptions& options_;
  const Tokenizer& tokenizer_;
  ThreadPool& pool_;
  TextPieces pieces_;
  ShardWriter writer_;
  PrepareReport report_;
  std::unordered_set<Short, Hash> seen_;
};

/// The folder holds what its ids mean, whatever becomes of the file that was given.
Status KeepTokenizer(const Tokenizer& tokenizer, const std::string& folder) {
  if (tokenizer.content().empty()) return Status::Ok();
  const bool json = tokenizer.kind() == "byte-level BPE";
  return PublishFile(folder + "/" + kKeptTokenizers[json ? 0 : 1], tokenizer.content());
}

}  // namespace

Result<PrepareReport> Prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                              ThreadPool& pool,
                              const std::function<Status(uint64_t read, uint64_t of,
                                                         const PrepareReport& so_far)>& progress) {
  MF_ASSIGN_OR_RETURN(std::vector<std::string> paths,
                      FindAllDataFiles(options.data, {{"--out", options.out}}));
  MF_RETURN_IF_ERROR(CheckField(options.field, paths));
  uint64_t bytes = 0;
  for (const std::string& path : paths) bytes += FileBytes(path);
  MF_ASSIGN_OR_RETURN(const auto folder, ShardFolder::Open(options.out));
  Preparation preparation(options, tokenizer, pool, std::move(paths));
  while (true) {
    MF_ASSIGN_OR_RETURN(const bool more, preparation.Round());
    if (!more) break;
    MF_RETURN_IF_ERROR(progress(preparation.taken(), bytes, preparation.report()));
  }
  if (preparation.report().ids == 0) {
    return Status::Invalid(options.data.front() + ": no text is in it");
  }
  MF_RETURN_IF_ERROR(KeepTokenizer(tokenizer, folder->path()));
  MF_ASSIGN_OR_RETURN(PrepareReport report, preparation.Finish());
  folder->SetFinished();
  return report;
}

}  // namespace mf
