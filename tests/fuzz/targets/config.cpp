// Configuration files and --set. The input is a TOML file, then overrides, with NUL bytes between
// them. What is accepted can be used: it has tensors, a run's description and a text that is read
// again.
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/config/tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  constexpr int64_t kLayersMax = 64;  // lists of a thousand layers only cost time
  std::vector<std::string> overrides = fuzz::Parts(fuzz::TextOf(data, size), 4);
  const std::string path = fuzz::ScratchFile("run.toml", overrides[0]);
  overrides.erase(overrides.begin());
  std::erase(overrides, "");
  auto config = LoadConfig(path, overrides);
  if (!config.ok()) {
    MF_CHECK(config.status().code() == Code::kInvalid);
    return 0;
  }
  MF_CHECK(CheckConfig(*config).ok());
  const std::string identity = IdentityJson(*config);
  auto again = ConfigFromJson(identity);
  MF_CHECK(again.ok() && IdentityJson(*again) == identity);
  if (config->model.layers > kLayersMax) return 0;
  const RunDescription run = DescribeRun(*config, "data");
  MF_CHECK(run.Check().ok());
  auto read = RunDescription::FromJson(run.Json());
  MF_CHECK(read.ok() && *read == run);
  auto described = ConfigOf(*read);
  MF_CHECK(described.ok() && IdentityJson(*described) == identity);
  return 0;
}
