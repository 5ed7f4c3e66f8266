// Run descriptions, which come from workers and from files, and what is told of two that differ.
// The input is two texts with a NUL byte between them.
#include "common/run/run_description.h"

#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  std::vector<RunDescription> runs;
  for (const std::string& text : fuzz::Parts(fuzz::TextOf(data, size), 2)) {
    auto run = RunDescription::FromJson(text);
    if (!run.ok()) {
      MF_CHECK(run.status().code() == Code::kInvalid && !run.status().message().empty());
      continue;
    }
    MF_CHECK(run->Check().ok());
    const std::string json = run->Json();
    auto again = RunDescription::FromJson(json);
    MF_CHECK(again.ok());
    MF_CHECK(again->Json() == json && again->RunId() == run->RunId());
    MF_CHECK(DescribeDifference(*run, *again).empty());
    const int64_t most = MaxShards(*run);
    MF_CHECK(most >= 1 && CheckShards(*run, most).ok() && !CheckShards(*run, most + 1).ok());
    runs.push_back(*run);
  }
  if (runs.size() < 2) return 0;
  const std::string difference = DescribeDifference(runs[0], runs[1]);
  MF_CHECK(difference.empty() == (runs[0].RunId() == runs[1].RunId()));
  return 0;
}
