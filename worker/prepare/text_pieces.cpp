#include "worker/prepare/text_pieces.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "common/base/files.h"
#include "common/base/input_file.h"
#include "worker/data/token_shard.h"
#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

constexpr size_t kReadBytes = size_t{1} << 18;
constexpr size_t kLineMax = size_t{256} << 20;  // of JSON: a longer one is no line
}  // namespace

bool IsJsonLines(const std::string& path) {
  std::string lower = path;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string_view name = lower;
  for (const std::string_view packed : {".gz", ".zst"}) {
    if (name.ends_with(packed)) name.remove_suffix(packed.size());
  }
  return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
}

std::string WhyNoJson(const std::string& text) {
  try {
    const auto parsed = nlohmann::json::parse(text);
    static_cast<void>(parsed);
  } catch (const nlohmann::json::parse_error& error) {
    return "from byte " + std::to_string(error.byte) + " on";
  } catch (const nlohmann::json::out_of_range&) {
    return "a number in it is larger than a double";
  }
  return "";
}

Status CheckField(const std::string& field, const std::vector<std::string>& paths) {
  if (field.empty() || std::any_of(paths.begin(), paths.end(), IsJsonLines)) return Status::Ok();
  return Status::Invalid("--field " + field +
                         ": no file is of JSON lines, which are known by their names (.jsonl, "
                         ".ndjson, .json); rename it, or leave --field out");
}

Status ReadJsonLine(const std::string& path, const std::string& field, TextPiece* piece) {
  const auto refuse = [&](const std::string& why) {
    return Status::Invalid(path + ": line " + std::to_string(piece->line) + ": " + why);
  };
  const auto line = nlohmann::json::parse(piece->bytes, nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) {
    return refuse("is no JSON (" + WhyNoJson(piece->bytes) +
                  "); JSON lines are one document each, in UTF-8");
  }
  if (!line.is_object()) return refuse("is no JSON object; JSON lines are one document each");
  const std::string name(field.empty() ? kUsualField : field);
  const auto found = line.find(name);
  if (found == line.end()) {
    return refuse("has no text \"" + name + "\"; name the field with --field");
  }
  if (!found->is_string()) return refuse("has a \"" + name + "\" that is no text");
  piece->bytes = found->get<std::string>();
  return Status::Ok();
}

namespace {

Status CheckNotPrepared(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  const auto shard = ReadShardHeader(file);
  if (shard.ok() && !shard.value().has_value()) return Status::Ok();
  if (shard.status().code() == Code::kFailed) return shard.status();
  return Status::Invalid(path + ": is prepared already: worker train takes its folder as it is");
}

}  // namespace

Result<std::optional<TextPiece>> TextPieces::Next() {
  while (file_ < paths_.size()) {
    if (stream_ == nullptr) {
      MF_ASSIGN_OR_RETURN(stream_, ByteStream::Open(paths_[file_]));
      MF_RETURN_IF_ERROR(CheckNotPrepared(paths_[file_]));
      json_ = IsJsonLines(paths_[file_]);
      begins_ = true;
      line_ = 0;
      check_ = TextCheck();
    }
    MF_ASSIGN_OR_RETURN(std::optional<TextPiece> piece, json_ ? NextLine() : NextText());
    if (piece.has_value()) return piece;
    MF_RETURN_IF_ERROR(EndFile());
  }
  return std::optional<TextPiece>();
}

Status TextPieces::EndFile() {
  if (!json_ && !binary_) {
    if (const std::string fault = check_.Fault(); !fault.empty()) {
      return Status::Invalid(paths_[file_] + ": binary data where text is needed: " + fault +
                             "; leave it out, or take every byte as it is with --binary");
    }
  }
  taken_before_ += stream_->taken();
  stream_.reset();
  ++file_;
  return Status::Ok();
}

/// More bytes behind those that are there. False at the end of the file.
Result<bool> TextPieces::Fill() {
  buffer_.erase(0, std::exchange(given_, 0));
  const size_t before = buffer_.size();
  buffer_.resize(before + kReadBytes);
  const Result<size_t> count = stream_->Read(kReadBytes, buffer_.data() + before);
  buffer_.resize(before + (count.ok() ? count.value() : 0));
  if (!count.ok()) return count.status();
  if (!json_ && !binary_) check_.Update(buffer_.data() + before, count.value());
  return count.value() > 0;
}

TextPiece TextPieces::Take(size_t bytes, bool ends) {
  TextPiece piece{.bytes = buffer_.substr(given_, bytes),
                  .json = json_,
                  .begins = json_ || begins_,
                  .ends = ends,
                  .file = file_,
                  .line = line_};
  given_ += bytes;
  begins_ = ends;
  return piece;
}

Result<std::optional<TextPiece>> TextPieces::NextLine() {
  size_t searched = given_;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      ++line_;
      const size_t bytes = end - given_;
      const bool blank = buffer_.find_first_not_of(" \t\r", given_) >= end;
      TextPiece piece = Take(bytes, /*ends=*/true);
      ++given_;
      if (!blank) return std::optional(std::move(piece));
      searched = given_;
      continue;
    }
    if (buffer_.size() - given_ > kLineMax) {
      return Status::Invalid(paths_[file_] + ": line " + std::to_string(line_ + 1) +
                             " is longer than 256 MiB; JSON lines are one document each");
    }
    const size_t unsearched = buffer_.size() - given_;
    MF_ASSIGN_OR_RETURN(const bool more, Fill());
    searched = unsearched;
    if (more) continue;
    if (buffer_.find_first_not_of(" \t\r") == std::string::npos) {
      buffer_.clear();
      return std::optional<TextPiece>();
    }
    ++line_;
    return std::optional(Take(buffer_.size(), /*ends=*/true));
  }
}

Result<std::optional<TextPiece>> TextPieces::NextText() {
  while (true) {
    const std::string_view left = std::string_view(buffer_).substr(given_);
    if (left.size() > kTextPartBytes) return std::optional(Take(FirstPart(left), /*ends=*/false));
    MF_ASSIGN_OR_RETURN(const bool more, Fill());
    if (more) continue;
    if (buffer_.empty()) return std::optional<TextPiece>();  // an empty file is no document
    return std::optional(Take(buffer_.size(), /*ends=*/true));
  }
}

}  // namespace mf
