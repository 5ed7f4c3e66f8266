#include "worker/data/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "common/base/check.h"
#include "common/base/files.h"
#include "common/base/input_file.h"
#include "common/base/random.h"
#include "worker/data/permutation.h"

namespace mf {
namespace {

constexpr uint64_t kFileBytesMax = 1 << 20;
constexpr const char* kBlanks = " \t\r";
constexpr const char* kForm = "; a mixture has a line \"WEIGHT PATH\" for each corpus";

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

/// What is wrong with the line, or empty.
std::string ReadLine(std::string_view line, const std::string& folder, MixturePart* part) {
  const size_t blank = line.find_first_of(kBlanks);
  const std::string_view number = line.substr(0, blank);
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), part->weight);
  const bool whole = error == std::errc() && end == number.data() + number.size();
  if (!whole || !std::isfinite(part->weight) || part->weight <= 0) {
    return std::string("does not begin with a weight above 0") + kForm;
  }
  part->path = blank == std::string_view::npos ? "" : Trim(line.substr(blank));
  if (part->path.empty()) return std::string("has no path after the weight") + kForm;
  if (IsMixture(part->path)) return "names another mixture; name its corpora here";
  if (!part->path.starts_with('/')) part->path = folder + "/" + part->path;
  return "";
}

}  // namespace

bool IsMixture(const std::string& path) { return path.ends_with(".mix") && !IsFolder(path); }

Result<std::vector<MixturePart>> CorporaOf(const std::string& data) {
  if (IsMixture(data)) return ReadMixture(data);
  return std::vector<MixturePart>{{data, 1}};
}

Result<std::vector<MixturePart>> ReadMixture(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadInput(path, "this mixture", kFileBytesMax));
  const std::string folder = FolderOf(path);
  std::vector<MixturePart> parts;
  std::set<std::string> paths;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = Trim(std::string_view(text).substr(at, end - at));
    at = end + 1;
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    MixturePart part;
    std::string fault = ReadLine(line, folder, &part);
    if (fault.empty() && !paths.insert(part.path).second) {
      fault = "names " + part.path + " once more; give it one weight";
    }
    if (!fault.empty()) {
      return Status::Invalid(path + ": line " + std::to_string(number) + ": " + fault);
    }
    parts.push_back(std::move(part));
  }
  if (parts.empty()) return Status::Invalid(path + ": empty" + kForm);
  return parts;
}

std::vector<int64_t> SharesOf(const std::vector<double>& weights, int64_t most) {
  // Weights of any size, so that their sum is finite.
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (const double weight : weights) sum += weight / largest;
  std::vector<int64_t> shares;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double exact = weight / largest / sum * static_cast<double>(most);
    shares.push_back(static_cast<int64_t>(std::floor(exact)));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  int64_t left = most - std::accumulate(shares.begin(), shares.end(), int64_t{0});
  for (size_t i = 0; left > 0; i = (i + 1) % order.size(), --left) ++shares[order[i]];
  return shares;
}

MixtureOrder::MixtureOrder(uint64_t key, const std::vector<int64_t>& shares) : key_(key) {
  int64_t end = 0;
  for (const int64_t share : shares) ends_.push_back(end += share);
  MF_CHECK(end == kBlock);
}

MixtureOrder::Place MixtureOrder::At(int64_t sequence) const {
  if (ends_.size() == 1) return {0, sequence};
  const int64_t block = sequence / kBlock;
  const Permutation order(RandomKey(key_, static_cast<uint64_t>(block)), kBlock);
  const auto place = static_cast<int64_t>(order(static_cast<uint64_t>(sequence % kBlock)));
  const auto corpus = std::upper_bound(ends_.begin(), ends_.end(), place) - ends_.begin();
  const int64_t begin = corpus == 0 ? 0 : ends_[static_cast<size_t>(corpus) - 1];
  const int64_t share = ends_[static_cast<size_t>(corpus)] - begin;
  return {static_cast<size_t>(corpus), block * share + place - begin};
}

}  // namespace mf
