// The ids that a tokenizer gives, for tests that compare them with other programs': reads lines of
// JSON strings from standard input, and prints for each its ids in one line.
//   tokenizer_ids TOKENIZER          --check: decodes them again, too, and ends with 1 if a text
//                                    does not come back
//   tokenizer_ids --time TOKENIZER FILE    megabytes a second over the lines of a text
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/input_file.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {
namespace {

int Fail(const std::string& why) {
  std::fprintf(stderr, "tokenizer_ids: %s\n", why.c_str());
  return 1;
}

int PrintIds(const Tokenizer& tokenizer, bool check) {
  std::string line;
  std::vector<uint32_t> ids;
  size_t number = 0;
  while (std::getline(std::cin, line)) {
    const auto text = nlohmann::json::parse(line).get<std::string>();
    ids.clear();
    if (const Status status = tokenizer.Encode(text, &ids); !status.ok()) {
      return Fail(status.message());
    }
    ++number;
    if (check && tokenizer.Decode(ids) != text) {
      return Fail("line " + std::to_string(number) + " does not come back: " + line);
    }
    for (const uint32_t id : ids) std::printf("%u ", id);
    std::printf("\n");
  }
  return 0;
}

int Time(const Tokenizer& tokenizer, const std::string& path) {
  const auto text = ReadInput(path, "the text", size_t{1} << 30);
  if (!text.ok()) return Fail(text.status().message());
  std::vector<uint32_t> ids;
  const auto begin = std::chrono::steady_clock::now();
  for (size_t at = 0; at < text.value().size();) {
    const size_t end = std::min(text.value().find('\n', at), text.value().size());
    const Status status =
        tokenizer.Encode(std::string_view(text.value()).substr(at, end - at), &ids);
    if (!status.ok()) return Fail(status.message());
    at = end + 1;
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%zu ids, %.2f MB/s\n", ids.size(),
              static_cast<double>(text.value().size()) / 1e6 / seconds);
  return 0;
}

int Run(const std::vector<std::string>& arguments) {
  const bool time = arguments.size() == 3 && arguments[0] == "--time";
  const bool check = arguments.size() == 2 && arguments[0] == "--check";
  if (!time && !check && arguments.size() != 1) {
    std::fprintf(stderr, "usage: tokenizer_ids [--check] TOKENIZER | --time TOKENIZER FILE\n");
    return 2;
  }
  const auto tokenizer = Tokenizer::Open(arguments[time || check ? 1 : 0]);
  if (!tokenizer.ok()) return Fail(tokenizer.status().message());
  return time ? Time(*tokenizer.value(), arguments[2]) : PrintIds(*tokenizer.value(), check);
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) { return mf::Run({argv + 1, argv + argc}); }
