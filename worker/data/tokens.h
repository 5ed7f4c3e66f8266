// A sequence of token ids from text files or from .bin files of ids. Nothing of them is kept in
// memory: what is asked for is read, through the disk's cache, which all workers of a machine
// share. Only of text for which there is a tokenizer the ids are in memory; of large ones a run
// reads those that are kept (worker/prepare/text_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/config/config.h"
#include "worker/data/checked_file.h"
#include "worker/data/data_files.h"
#include "worker/data/digest_store.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

class Tokens {
 public:
  struct Options {
    DataConfig data = {};                // binary, ids
    std::vector<OwnPlace> own = {};      // never read as data
    bool digest = false;                 // so that Digest() is there, and changes are noticed
    const DigestStore* known = nullptr;  // of large .bin files
    /// Makes ids of text, and has made those of shards; nullptr: bytes are tokens, any shards do.
    std::shared_ptr<const Tokenizer> tokenizer = {};
  };

  /// `path`: a text file (one document, no end-of-text); text files of a folder (data_files.h; by
  /// sorted path, an end-of-text between documents, if the tokenizer has one); a file of token ids,
  /// whose name ends in .bin (id_format.h); or a folder of those, one after the other, by sorted
  /// path. kInvalid, naming the file, for what is missing, empty, not what it should be, or above
  /// the vocabulary.
  static Result<std::shared_ptr<const Tokens>> Open(const std::string& path, int64_t vocabulary,
                                                    const Options& options);
  static Result<std::shared_ptr<const Tokens>> Open(const std::string& path, int64_t vocabulary) {
    return Open(path, vocabulary, Options());
  }

  int64_t size() const { return size_; }
  /// Bytes of the text that the ids stand for; 0 where they were made elsewhere.
  uint64_t text_bytes() const { return text_bytes_; }
  /// Copies ids [begin, begin + count), which must exist. kInvalid for one above the vocabulary
  /// (files too large to be checked when they are opened are checked here); kFailed if the file is
  /// no longer what it was when it was opened.
  Status Copy(int64_t begin, int64_t count, uint32_t* ids) const;

  /// Identifies the tokens by all bytes of the files, in their order, and how they are read; names
  /// and places of the files do not count. Only with Options::digest.
  std::string Digest() const;
  /// The files that `other` has, too, byte by byte: "PATH and PATH (sha256 ...)", or empty. Both
  /// with Options::digest.
  std::string CommonFile(const Tokens& other) const;
  /// Adds what the next start may know of large files.
  void AddTo(DigestStore* store) const;

 private:
  struct Part {  // a file
    std::unique_ptr<CheckedFile> file;
    int64_t begin = 0;  // of its first id among all
    int64_t count = 0;
    uint64_t header_bytes = 0;
    size_t id_bytes = 1;
    std::string ids_digest = {};         // as a header says; empty: unknown
    std::vector<uint32_t> encoded = {};  // of text with a tokenizer
  };

  Tokens() = default;
  Status OpenTexts(const std::vector<std::string>& paths, const Options& options);
  /// Makes ids of a text's bytes.
  Status EncodePart(const std::string& text, Part* part) const;
  /// `all`: the files are a whole folder, in which no shard is missing.
  Status OpenBins(const std::vector<std::string>& paths, const Options& options, bool all);
  Status CheckIds() const;
  Status FindPieces(const DigestStore* known);
  /// Reads a file whole: its digest is known then, and its ids are those that its header tells of.
  static Status ReadWhole(const Part& part);
  /// Ids [first, first + count) of a part.
  Status CopyPart(const Part& part, int64_t first, int64_t count, uint32_t* ids) const;
  Status AboveVocabulary(const Part* part, int64_t position, uint32_t id) const;

  std::string path_;
  int64_t vocabulary_ = 0;
  int64_t size_ = 0;
  uint64_t text_bytes_ = 0;
  std::shared_ptr<const Tokenizer> encoder_;               // nullptr: bytes are tokens
  std::optional<uint32_t> end_of_text_ = kBytesEndOfText;  // between texts
  std::vector<Part> parts_;  // by begin; a gap of one between two is an end-of-text
};

}  // namespace mf
