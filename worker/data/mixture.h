// Several corpora with weights: a file FILE.mix with a line "WEIGHT PATH" for each. Of every 1000
// sequences in a row each corpus has its share exactly, in an order of their own; which sequence is
// which is a function of its number, so that nothing has to be counted or kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// A file whose name ends in .mix.
bool IsMixture(const std::string& path);

struct MixturePart {
  std::string path;  // as of --data; beside the file, if it is relative
  double weight = 0;
};

/// Lines "WEIGHT PATH"; empty ones and those that begin with # do not count. kInvalid, naming file
/// and line, for anything else, for a weight that is no positive number, and for a path that comes
/// twice.
Result<std::vector<MixturePart>> ReadMixture(const std::string& path);

/// The corpora of --data: those of a mixture, or the one that it is itself.
Result<std::vector<MixturePart>> CorporaOf(const std::string& data);

/// `most` things shared out by weight: as near to the shares as whole numbers are, the largest
/// remainders first.
std::vector<int64_t> SharesOf(const std::vector<double>& weights, int64_t most);

class MixtureOrder {
 public:
  static constexpr int64_t kBlock = 1000;

  /// `shares` of kBlock, by corpus. One corpus: all of it, in its order.
  MixtureOrder(uint64_t key, const std::vector<int64_t>& shares);

  struct Place {
    size_t corpus = 0;
    int64_t number = 0;  // of the corpus's own sequences, each exactly once
  };
  Place At(int64_t sequence) const;

 private:
  const uint64_t key_;
  std::vector<int64_t> ends_;  // of the corpora's places among kBlock
};

}  // namespace mf
