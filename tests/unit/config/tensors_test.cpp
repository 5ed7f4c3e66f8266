// Goal: the list of tensors is the model of DESIGN section 3 in the layout of section 8.
#include "worker/config/tensors.h"

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

// Goal: servers learn of a run what its configuration says, and the configuration comes back.
TEST(DescribeRun, SaysWhatTheConfigurationSays) {
  const Config config = Load({"train.optimizer=adagrad",
                              "train.sparse_update=lazy",
                              "train.eps=0.5",
                              "train.lr=0.25",
                              "train.weight_decay=0.125",
                              "train.warmup_ratio=0.5",
                              "train.min_lr_ratio=0.75",
                              "train.steps=7",
                              "train.micro_batches=3",
                              "train.batch=5",
                              "train.window=2",
                              "train.lease_seconds=4",
                              "train.clip=9",
                              "train.eval_every=6",
                              "model.probes=2",
                              "model.table_dtype=bf16",
                              "model.seed=11",
                              "model.column_blocks=8",
                              "exchange.wire=bf16",
                              "snapshot.every_steps=12",
                              "snapshot.keep=13"});
  const RunDescription run = DescribeRun(config, "the data");
  ASSERT_TRUE(run.Check().ok()) << run.Check().message();
  EXPECT_EQ(run.data, "the data");
  const RunRules expected{.steps = 7,
                          .micro_batches = 3,
                          .tokens_per_micro_batch = 5 * 256,
                          .window = 2,
                          .lease_seconds = 4,
                          .schedule = {0.25, 0.5, 0.75},
                          .clip = 9,
                          .eval_every = 6,
                          .snapshots = {.every_steps = 12, .every_minutes = 5, .keep = 13},
                          .wire = Wire::kBf16,
                          .column_blocks = 8,
                          .seed = 11};
  EXPECT_TRUE(run.rules == expected);
  for (const TensorSpec& t : run.tensors) {
    const bool memory = t.kind == TensorKind::kMemory;
    const bool decays = memory || t.shape.size() == 2;  // not gains and biases
    EXPECT_EQ(t.weight_decay, decays ? 0.125 : 0) << t.name;
    EXPECT_EQ(t.probes, memory ? 2 : 1) << t.name;
    EXPECT_EQ(t.row_type, memory ? RowType::kBf16 : RowType::kF32) << t.name;
    EXPECT_EQ(t.rate_scale, 1) << t.name;
    EXPECT_TRUE((t.optimizer ==
                 OptimizerSettings{OptimizerKind::kAdagrad, 0.9, 0.95, 0.5, SparseUpdate::kLazy}))
        << t.name;
  }
  auto back = ConfigOf(*RunDescription::FromJson(run.Json()));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(IdentityJson(*back), IdentityJson(config));
}

// Goal: another configuration is refused by its keys, whatever follows from them in the tensors.
TEST(DescribeRun, DifferencesAreNamedByKeys) {
  const RunDescription run = DescribeRun(Config{}, "");
  EXPECT_EQ(
      DescribeDifference(run, DescribeRun(Load({"model.tau=7", "model.d=112", "train.window=1",
                                                "exchange.wire=bf16"}),
                                          "other")),
      "exchange.wire: \"f32\" here, \"bf16\" there; model.d: 128 here, 112 there; model.tau: 8 "
      "here, 7 there");
  EXPECT_EQ(DescribeDifference(run, DescribeRun(Load({"train.window=1"}), "other")),
            "the same configuration on other data");
}

TEST(ConfigOf, RefusesWhatThisProgramDoesNotDescribe) {
  const RunDescription run = DescribeRun(Config{}, "");
  RunDescription other = run;
  other.about = "somebody else's";
  EXPECT_EQ(ConfigOf(other).status().code(), Code::kInvalid);
  other = run;
  other.tensors[3].columns += 1;
  const auto refused = ConfigOf(other);
  EXPECT_NE(refused.status().message().find("its tensors are not"), std::string::npos)
      << refused.status().message();
}

}  // namespace
}  // namespace mf
