#include "tests/support/training_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/base/digest.h"
#include "common/base/random.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

/// The keys of a metrics file that must not depend on the topology, as they stand in it.
std::string ComparableMetrics(const std::string& path) {
  std::ifstream file(path);
  std::string result;
  for (std::string line; std::getline(file, line);) {
    for (const std::string key : {"step", "loss", "lr", "grad_norm", "val_loss", "dropped"}) {
      const size_t begin = line.find("\"" + key + "\":");
      if (begin == std::string::npos) continue;
      result += line.substr(begin, line.find_first_of(",}", begin) - begin) + " ";
    }
    result += "\n";
  }
  return result;
}

}  // namespace

TrainingFolder::TrainingFolder() {
  path_ = (fs::temp_directory_path() / "training.XXXXXX").string();
  EXPECT_NE(mkdtemp(path_.data()), nullptr);
  const char* words[] = {"a",   "river",  "of",  "small", "stones", "runs", "under", "the",
                         "old", "bridge", "and", "never", "stops",  "for",  "rain",  "or"};
  std::ofstream file(text());
  for (uint64_t i = 0; i < 6'000; ++i) {
    file << words[RandomBelow(RandomKey(5, i), std::size(words))] << (i % 11 == 10 ? ".\n" : " ");
  }
}

TrainingFolder::~TrainingFolder() { fs::remove_all(path_); }

Config SmallTrainingConfig(int64_t steps) {
  Config config;
  config.model.d = 48;
  config.model.K = 6;
  config.model.tau = 8;
  config.model.expand_bits = 1;  // M1 gives 54 columns: a tail in every kernel
  config.model.layers = 2;
  config.model.heads = 2;
  config.model.sequence = 24;
  config.train.steps = steps;
  config.train.micro_batches = 4;
  config.train.batch = 3;  // 72 tokens: a chunk of 64 and a tail
  config.train.eval_every = 20;
  config.train.eval_batches = 4;
  return config;
}

TrainingOutcome TrainAndRead(TrainOptions options, const std::string& out, TrainSummary* summary) {
  options.out = out;
  options.export_path = out + "/model.safetensors";
  const Status status = Train(options, summary);
  EXPECT_TRUE(status.ok()) << status.message();
  TrainingOutcome outcome{ComparableMetrics(out + "/metrics.jsonl"),
                          Sha256HexOfFile(options.export_path)};
  EXPECT_EQ(std::count(outcome.metrics.begin(), outcome.metrics.end(), '\n'),
            options.config.train.steps);
  EXPECT_EQ(outcome.model.size(), 64u);
  fs::remove_all(out);
  return outcome;
}

}  // namespace mf
