// Text made into shards of token ids, once, for all runs that train on it: what `worker prepare`
// does. The same bytes for any number of threads; memory does not grow with the text, but for 16
// bytes of each document where duplicates are dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

struct PrepareOptions {
  std::vector<std::string> data;  // as of FindDataFiles(), one after the other
  std::string out;                // folder, empty or not there yet
  std::string field = {};         // see text_pieces.h
  bool binary = false;
  bool drop_duplicates = false;  // of whole documents, but those in several pieces
  uint64_t shard_ids = uint64_t{1} << 28;
};

struct PrepareReport {
  uint64_t files = 0, documents = 0, duplicates = 0;
  uint64_t text_bytes = 0;  // of the documents, unpacked; without duplicates
  uint64_t ids = 0;         // the ends of documents with them
  size_t shards = 0;
};

/// Encodes every document, and an end of text after each if the tokenizer has one; a copy of the
/// tokenizer's file stands beside the shards. `progress` is told, many times a second, bytes of
/// files that were read, and of all; its error ends the work. kInvalid, naming file and line, for
/// what is no text or has no such field. Whatever the error, nothing is left in the folder.
Result<PrepareReport> Prepare(
    const PrepareOptions& options, const Tokenizer& tokenizer, ThreadPool& pool,
    const std::function<Status(uint64_t read, uint64_t of, const PrepareReport& so_far)>& progress);

}  // namespace mf
