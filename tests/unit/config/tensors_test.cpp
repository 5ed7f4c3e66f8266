// Goal: the list of tensors is the model of DESIGN section 3 in the layout of section 8.
#include "common/config/tensors.h"

#include <gtest/gtest.h>

#include <numeric>

namespace mf {
namespace {

Config Load(const std::vector<std::string>& overrides) {
  auto config = LoadConfig("", overrides);
  EXPECT_TRUE(config.ok());
  return std::move(config).value();
}

int64_t Parameters(const std::vector<TensorSpec>& tensors) {
  int64_t sum = 0;
  for (const TensorSpec& tensor : tensors) {
    sum += tensor.tables * tensor.rows * tensor.columns;
  }
  return sum;
}

TEST(Tensors, NamesAndShapesOfNano) {
  const auto tensors = TensorsOf(Config{});
  EXPECT_EQ(tensors.front().name, "embed.weight");
  EXPECT_EQ(tensors.back().name, "head.weight");
  EXPECT_EQ(FindTensor(tensors, "blocks.0.qkv.tables")->shape,
            (std::vector<int64_t>{16, 256, 384}));
  EXPECT_EQ(FindTensor(tensors, "blocks.3.m1.tables")->shape, (std::vector<int64_t>{16, 256, 160}));
  EXPECT_EQ(FindTensor(tensors, "blocks.3.m2.tables")->shape,
            (std::vector<int64_t>{16, 1024, 128}));
  EXPECT_EQ(FindTensor(tensors, "blocks.3.m2.tables")->index_bytes(), 2);
  EXPECT_EQ(FindTensor(tensors, "blocks.3.qkv.tables")->index_bytes(), 1);
  EXPECT_NE(FindTensor(tensors, "blocks.0.mid_norm.bias"), nullptr);
  EXPECT_EQ(FindTensor(tensors, "blocks.0.norm1.bias"), nullptr);  // rmsnorm has none
  EXPECT_EQ(FindTensor(tensors, "blocks.4.qkv.tables"), nullptr);
}

TEST(Tensors, IdsAreCanonicalAndShapesAgree) {
  for (const char* projection : {"memory", "dense"}) {
    const auto tensors =
        TensorsOf(Load({std::string("model.projection=") + projection, "model.norm=layernorm"}));
    for (size_t i = 0; i < tensors.size(); ++i) {
      const TensorSpec& t = tensors[i];
      EXPECT_EQ(t.id, i);
      EXPECT_EQ(FindTensor(tensors, t.name), &t) << "a name stands twice: " << t.name;
      const int64_t product =
          std::accumulate(t.shape.begin(), t.shape.end(), int64_t{1}, std::multiplies<int64_t>());
      EXPECT_EQ(product, t.tables * t.rows * t.columns) << t.name;
      EXPECT_NE(t.mode, ExchangeMode::kAuto) << t.name;
      if (t.kind == TensorKind::kDense) {
        EXPECT_EQ(t.mode, ExchangeMode::kPull) << t.name;
      }
    }
  }
}

TEST(Tensors, TheTinyModelHasThePapersSize) {
  const auto tensors = TensorsOf(Load({"model.d=512", "model.layers=6", "model.heads=8",
                                       "model.vocabulary=50304", "model.sequence=2048"}));
  int64_t table_numbers = 0;
  for (const TensorSpec& t : tensors) {
    if (t.kind == TensorKind::kMemory) table_numbers += t.tables * t.rows * t.columns;
  }
  // 64 tables: 256 rows of 1536, 256 of 640 and 1024 of 512, in 6 blocks: 0.4 G.
  EXPECT_EQ(table_numbers, int64_t{6} * 64 * (256 * 1536 + 256 * 640 + 1024 * 512));
  EXPECT_GT(Parameters(tensors), table_numbers + 2 * 50304 * 512);
}

TEST(Tensors, ModeOfATable) {
  const auto mode = [](const std::vector<std::string>& overrides) {
    const auto tensors = TensorsOf(Load(overrides));
    return FindTensor(tensors, "blocks.0.qkv.tables")->mode;
  };
  EXPECT_EQ(mode({"exchange.mode=pull"}), ExchangeMode::kPull);
  EXPECT_EQ(mode({"exchange.mode=pushdown"}), ExchangeMode::kPushdown);
  // Many tokens share few rows: fetching them is cheaper. Few tokens, many rows: it is not.
  EXPECT_EQ(mode({"model.tau=4", "train.batch=256"}), ExchangeMode::kPull);
  EXPECT_EQ(mode({"model.tau=16", "model.expand_bits=0"}), ExchangeMode::kPushdown);
  // Where GPU workers have a copy only gradients move, and their summed rows are no fewer than
  // before.
  EXPECT_EQ(mode({"exchange.placement=device"}), ExchangeMode::kPushdown);
  EXPECT_EQ(mode({"exchange.placement=device", "model.tau=4", "train.batch=256"}),
            ExchangeMode::kPull);
}

}  // namespace
}  // namespace mf
