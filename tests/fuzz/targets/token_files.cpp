// Files of token ids and texts, with what lies beside them. The first two bytes of the input say
// how they are read, the third how long the index beside a .bin file is (0: none); the index and
// the file follow.
#include <algorithm>

#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/data/tokens.h"

namespace mf {
namespace {

constexpr size_t kHead = 3;
constexpr int64_t kVocabularies[] = {2, 256, 257, 50257, 65536, 65537, 128256, 1 << 24};

/// Everything that was opened can be read, in one piece and in two.
void ReadAll(const Tokens& tokens, int64_t vocabulary, int64_t cut) {
  const int64_t count = std::min<int64_t>(tokens.size(), 1 << 16);
  MF_CHECK(count > 0);
  std::vector<uint32_t> ids(static_cast<size_t>(count)), again(ids.size());
  const Status whole = tokens.Copy(0, count, ids.data());
  cut = std::min(cut, count);
  Status parts = tokens.Copy(0, cut, again.data());
  if (parts.ok()) parts = tokens.Copy(cut, count - cut, again.data() + cut);
  MF_CHECK(whole.ok() == parts.ok());
  if (!whole.ok()) return;
  MF_CHECK(ids == again);
  for (const uint32_t id : ids) MF_CHECK(id < static_cast<uint64_t>(vocabulary));
}

}  // namespace
}  // namespace mf

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  if (size < kHead) return 0;
  const int64_t vocabulary = kVocabularies[data[0] % 8];
  const bool bin = (data[0] & 8) != 0;
  Tokens::Options options;
  options.data.binary = (data[0] & 16) != 0;
  options.data.ids = static_cast<IdType>((data[0] >> 5) % 3);
  options.digest = (data[0] & 128) != 0;
  std::string_view text = fuzz::TextOf(data + kHead, size - kHead);
  const std::string_view index = text.substr(0, data[2]);
  text.remove_prefix(index.size());
  std::string path = fuzz::ScratchFile(bin ? "ids.bin" : "text", text);
  const std::string beside = fuzz::ScratchFile("ids.idx", index);
  if (index.empty()) std::remove(beside.c_str());
  auto tokens = Tokens::Open(path, vocabulary, options);
  if (!tokens.ok()) {
    MF_CHECK(tokens.status().code() == Code::kInvalid);
    return 0;
  }
  ReadAll(**tokens, vocabulary, data[1]);
  if (!options.digest) return 0;
  // What a later start knows of the file changes nothing.
  DigestStore store;
  (*tokens)->AddTo(&store);
  options.known = &store;
  auto again = Tokens::Open(path, vocabulary, options);
  MF_CHECK(again.ok() && (*again)->Digest() == (*tokens)->Digest());
  MF_CHECK(!(*again)->CommonFile(**tokens).empty());
  return 0;
}
