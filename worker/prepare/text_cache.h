// Large texts of runs with a tokenizer: their ids are made once, as shards in a cache, where every
// later start and all workers of the machine find them. A user who has run `worker prepare` needs
// none of this.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "worker/data/data_files.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

/// The ids of less text are made at every start, which takes some seconds and up to 64 MiB.
inline constexpr uint64_t kCachedTextBytes = uint64_t{16} << 20;

class TextCache {
 public:
  /// In $XDG_CACHE_HOME/memoryformer or ~/.cache/memoryformer, or in `otherwise` where that cannot
  /// be written. `binary`: bytes that are no text are taken, too. The tokenizer outlives it.
  TextCache(std::string otherwise, const Tokenizer& tokenizer, bool binary, int threads)
      : otherwise_(std::move(otherwise)),
        tokenizer_(tokenizer),
        binary_(binary),
        threads_(threads) {}

  /// What is to be read in the place of `path` (as of FindDataFiles): a folder in the cache with
  /// what `worker prepare` makes of it. Made now, if it is not there; another process that makes it
  /// is waited for. `path` itself if bytes are tokens, and for what is small or no plain text.
  /// Errors as of Prepare().
  Result<std::string> Find(const std::string& path, const std::vector<OwnPlace>& own) const;

 private:
  Result<std::string> Make(const std::vector<std::string>& paths, uint64_t bytes,
                           const std::string& name) const;

  const std::string otherwise_;
  const Tokenizer& tokenizer_;
  const bool binary_;
  const int threads_;
};

}  // namespace mf
