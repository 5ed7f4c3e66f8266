#include "worker/data/run_tokenizer.h"

#include <optional>
#include <utility>
#include <vector>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "common/base/input_file.h"
#include "worker/data/data_files.h"
#include "worker/data/mixture.h"
#include "worker/data/token_shard.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {
namespace {

/// The first file of `data` and its header, if that is a shard. What is wrong with the data is told
/// by whoever reads it.
struct FirstShard {
  std::string path;
  ShardHeader header;
};
std::optional<FirstShard> FindShard(const std::string& data) {
  const Result<DataFiles> files = FindDataFiles(data, {});
  if (!files.ok()) return std::nullopt;
  for (const std::string& path : files.value().paths) {
    if (!path.ends_with(".bin")) continue;
    const Result<InputFile> file = InputFile::Open(path);
    if (!file.ok()) return std::nullopt;
    const auto header = ReadShardHeader(file.value());
    if (!header.ok() || !header.value().has_value()) return std::nullopt;
    return FirstShard{path, *header.value()};
  }
  return std::nullopt;
}

Status FindBeside(const FirstShard& shard, std::string* content) {
  for (const char* name : kKeptTokenizers) {
    const std::string path = FolderOf(shard.path) + "/" + name;
    if (!FileExists(path)) continue;
    MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Open(path));
    if (tokenizer->Digest() != shard.header.tokenizer) continue;
    *content = tokenizer->content();
    return Status::Ok();
  }
  return Status::Invalid(shard.path + ": the tokenizer that it was prepared with (SHA-256 " +
                         shard.header.tokenizer.substr(0, 16) +
                         "...) is not beside it; name it with --set data.tokenizer=FILE");
}

}  // namespace

Status ResolveTokenizer(const std::string& data, Config* config) {
  // Its content counts from here on: the file may go.
  const std::string named = std::exchange(config->data.tokenizer, "");
  if (!named.empty()) {
    MF_ASSIGN_OR_RETURN(const auto given, Tokenizer::Open(named));
    config->tokenizer = given->content();
  }
  MF_ASSIGN_OR_RETURN(const std::vector<MixturePart> corpora, CorporaOf(data));
  for (const MixturePart& corpus : corpora) {
    const std::optional<FirstShard> shard = FindShard(corpus.path);
    if (!shard.has_value()) continue;
    if (config->tokenizer.empty() && !shard->header.tokenizer.empty()) {
      MF_RETURN_IF_ERROR(FindBeside(*shard, &config->tokenizer));
    }
    const std::string digest = config->tokenizer.empty() ? "" : Sha256Hex(config->tokenizer);
    if (digest != shard->header.tokenizer) {
      return Status::Invalid(shard->path + ": was not prepared with " +
                             (named.empty() ? "the run's tokenizer" : named) +
                             "; prepare the text again, or name the tokenizer that made it");
    }
  }
  if (config->tokenizer.empty()) return Status::Ok();
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(config->tokenizer, named.empty() ? "the tokenizer" : named));
  if (tokenizer->vocabulary() <= config->model.vocabulary) return Status::Ok();
  return Status::Invalid("model.vocabulary = " + std::to_string(config->model.vocabulary) +
                         ": the tokenizer has " + std::to_string(tokenizer->vocabulary()) +
                         " ids; set model.vocabulary to as much or more");
}

}  // namespace mf
