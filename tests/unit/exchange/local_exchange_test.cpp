// Goal: memory layers over a mapped file give the weighted sums of the file's rows, for widths that
// are no multiple of 16 too, and the same bits for any number of threads.
#include "worker/export/local_exchange.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "common/base/random.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

/// Writes a whole export of `config` whose i-th number is a function of i.
std::string WriteModel(const Config& config) {
  const std::string path = testing::TempDir() + "local_exchange_test.safetensors";
  const auto tensors = TensorsOf(config);
  auto writer = SafetensorsWriter::Create(path, EntriesOf(tensors), ModelJson(config));
  EXPECT_TRUE(writer.ok());
  for (const TensorSpec& tensor : tensors) {
    std::vector<float> data(tensor.values());
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<float>(std::sin(static_cast<double>(i) * 0.7 + tensor.id));
    }
    EXPECT_TRUE(writer.value()->Append(data.data(), data.size() * sizeof(float)).ok());
  }
  EXPECT_TRUE(writer.value()->Finish().ok());
  return path;
}

Hashes RandomHashes(const TensorSpec& tensor, size_t tokens, size_t probes) {
  Hashes hashes;
  hashes.tokens = tokens;
  hashes.probes = probes;
  hashes.pairs = static_cast<size_t>(tensor.tables) * probes;
  hashes.index_bytes = tensor.index_bytes();
  const size_t count = hashes.pairs * tokens;
  hashes.indices = Buffer(count * static_cast<size_t>(hashes.index_bytes));
  hashes.weights = Buffer(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    const auto words = Philox(7, {static_cast<uint32_t>(i), 0, 0, 0});
    const uint32_t bucket = words[0] % static_cast<uint32_t>(tensor.rows);
    if (hashes.index_bytes == 1) hashes.indices.as<uint8_t>()[i] = static_cast<uint8_t>(bucket);
    if (hashes.index_bytes == 2) hashes.indices.as<uint16_t>()[i] = static_cast<uint16_t>(bucket);
    hashes.weights.as<float>()[i] = static_cast<float>(words[1] % 1000) / 500 - 1;
  }
  return hashes;
}

size_t Bucket(const Hashes& hashes, size_t i) {
  return hashes.index_bytes == 1 ? hashes.indices.as<uint8_t>()[i]
                                 : hashes.indices.as<uint16_t>()[i];
}

class LocalExchangeTest : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(LocalExchangeTest, ForwardIsTheWeightedSumOfRows) {
  const auto config = LoadConfig("", GetParam());
  ASSERT_TRUE(config.ok()) << config.status().message();
  const auto model = LoadedModel::Open(WriteModel(config.value()));
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(ModelJson(model.value()->config()), ModelJson(config.value()));
  const size_t probes = static_cast<size_t>(config.value().model.probes);
  constexpr size_t kTokens = 131;  // several ranges and a rest
  for (const TensorSpec& tensor : model.value()->tensors()) {
    if (tensor.kind != TensorKind::kMemory) continue;
    const Hashes hashes = RandomHashes(tensor, kTokens, probes);
    const size_t columns = static_cast<size_t>(tensor.columns);
    std::vector<float> one(kTokens * columns), three(kTokens * columns, -1);
    ThreadPool single(1), several(3);
    ASSERT_TRUE(LocalExchange(*model.value(), single).Forward(tensor, hashes, one.data()).ok());
    ASSERT_TRUE(LocalExchange(*model.value(), several).Forward(tensor, hashes, three.data()).ok());
    EXPECT_EQ(one, three) << tensor.name;
    const float* table = model.value()->table(tensor);
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t c = 0; c < columns; ++c) {
        double sum = 0;
        for (size_t p = 0; p < hashes.pairs; ++p) {
          const size_t row =
              p / probes * static_cast<size_t>(tensor.rows) + Bucket(hashes, p * kTokens + t);
          sum += static_cast<double>(hashes.weights.as<float>()[p * kTokens + t]) *
                 static_cast<double>(table[row * columns + c]);
        }
        // pairs additions of numbers below 1: pairs * 2^-24 each, and room.
        ASSERT_NEAR(one[t * columns + c], sum, 1e-5) << tensor.name << " " << t << " " << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Widths, LocalExchangeTest,
    testing::Values(std::vector<std::string>{"model.d=64", "model.tau=4", "model.layers=1"},
                    std::vector<std::string>{"model.d=20", "model.tau=4", "model.layers=1",
                                             "model.expand_bits=1", "model.probes=2"},
                    std::vector<std::string>{"model.d=9", "model.heads=1", "model.tau=9",
                                             "model.layers=2", "model.expand_bits=0",
                                             "model.probes=3"}));

TEST(LocalExchange, CanNotTrain) {
  const auto config = LoadConfig("", {"model.d=64", "model.tau=4", "model.layers=1"});
  const auto model = LoadedModel::Open(WriteModel(config.value()));
  ASSERT_TRUE(model.ok());
  ThreadPool pool(1);
  LocalExchange exchange(*model.value(), pool);
  const TensorSpec& tensor = *FindTensor(model.value()->tensors(), "blocks.0.qkv.tables");
  EXPECT_FALSE(exchange.Backward(tensor, RandomHashes(tensor, 1, 1), {}, nullptr).ok());
}

}  // namespace
}  // namespace mf
