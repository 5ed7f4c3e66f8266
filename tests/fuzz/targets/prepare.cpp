// A file of text or of JSON lines, packed or not: what is prepared of it can be read, and nothing
// is left of what cannot. The first byte of the input says of which kind the file is.
#include "worker/prepare/prepare.h"

#include <filesystem>

#include "common/base/files.h"
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/data/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  if (size == 0) return 0;
  static ThreadPool pool(1);
  static const auto tokenizer = Tokenizer::Open("");
  PrepareOptions options;
  options.binary = (data[0] & 2) != 0;
  options.drop_duplicates = (data[0] & 4) != 0;
  options.shard_ids = (data[0] & 8) != 0 ? 5 : 1 << 20;
  const std::string name = (data[0] & 1) != 0 ? "prepared.jsonl" : "prepared.txt";
  options.data = {fuzz::ScratchFile(name, fuzz::TextOf(data + 1, size - 1))};
  options.out = fuzz::ScratchFolder() + "/shards";
  std::filesystem::remove_all(options.out);
  const auto report = Prepare(options, *tokenizer.value(), pool,
                              [](uint64_t read, uint64_t of, const PrepareReport& so_far) {
                                MF_CHECK(read <= of && so_far.files == 1);
                                return Status::Ok();
                              });
  if (!report.ok()) {
    MF_CHECK(report.status().code() == Code::kInvalid);
    MF_CHECK(FileNames(options.out).empty());
    return 0;
  }
  const auto tokens = Tokens::Open(options.out, tokenizer.value()->vocabulary(), {.digest = true});
  MF_CHECK(tokens.ok() && static_cast<uint64_t>(tokens.value()->size()) == report.value().ids);
  return 0;
}
