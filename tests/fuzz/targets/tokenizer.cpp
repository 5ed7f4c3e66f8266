// A tokenizer.json: what is taken for one makes ids that it has of any text, and text of any ids.
// The first byte of the input says how many bytes of a text follow; the file is the rest. Models of
// SentencePiece are its own library's matter.
#include "worker/tokenizer/tokenizer.h"

#include <vector>

#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  if (size == 0) return 0;
  std::string_view rest = fuzz::TextOf(data + 1, size - 1);
  const std::string_view text = rest.substr(0, data[0]);
  rest.remove_prefix(text.size());
  if (rest.empty() || rest[0] != '{') return 0;
  const auto tokenizer = Tokenizer::Make(std::string(rest), "t.json");
  if (!tokenizer.ok()) {
    MF_CHECK(tokenizer.status().code() == Code::kInvalid);
    return 0;
  }
  std::vector<uint32_t> ids;
  MF_CHECK(tokenizer.value()->Encode(text, &ids).ok());
  for (const uint32_t id : ids) MF_CHECK(id < tokenizer.value()->vocabulary());
  const std::string back = tokenizer.value()->Decode(ids);
  MF_CHECK(!back.empty() || text.empty());
  for (uint32_t id = 0; id < 300; ++id) (void)tokenizer.value()->Decode(std::vector<uint32_t>{id});
  return 0;
}
