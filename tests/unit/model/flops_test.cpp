// Counts of operations against the figures of the paper's tables and against counts by hand.
#include "worker/model/flops.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mf {
namespace {

struct Preset {
  const char* name;
  int64_t d, layers, heads, K;
  double without_attention, block;  // G per block at sequence 2048, one decimal
};

// The paper prints 0.4 / 4.7, 0.9 / 7.3 and 1.6 / 10.2 G.
constexpr Preset kPresets[] = {{"tiny", 512, 6, 8, 64, 0.4, 4.7},
                               {"small", 768, 12, 12, 96, 0.9, 7.3},
                               {"base", 1024, 24, 16, 128, 1.6, 10.2}};

Config ConfigOf(const Preset& preset) {
  Config config;
  config.model.d = preset.d;
  config.model.layers = preset.layers;
  config.model.heads = preset.heads;
  config.model.K = preset.K;
  config.model.tau = 8;
  config.model.sequence = 2048;
  config.model.vocabulary = 50304;
  return config;
}

double RoundedGiga(int64_t flops) { return std::round(static_cast<double>(flops) / 1e8) / 10; }

TEST(FlopsTest, PaperFigures) {
  for (const Preset& preset : kPresets) {
    const FlopsReport report = Flops(ConfigOf(preset), 2048);
    EXPECT_DOUBLE_EQ(RoundedGiga(report.block_flops_without_attention), preset.without_attention)
        << preset.name;
    EXPECT_DOUBLE_EQ(RoundedGiga(report.block_flops), preset.block) << preset.name;
    EXPECT_EQ(report.model_flops, preset.layers * report.block_flops + 2048 * preset.d * 50304)
        << preset.name;
  }
}

TEST(FlopsTest, ProbesMultiplyTheRowsRead) {
  Config config = ConfigOf(kPresets[0]);
  const FlopsReport one = Flops(config, 100);
  config.model.probes = 3;
  const FlopsReport three = Flops(config, 100);
  EXPECT_EQ(three.block_flops_without_attention, 3 * one.block_flops_without_attention);
  EXPECT_EQ(three.block_flops - three.block_flops_without_attention,
            one.block_flops - one.block_flops_without_attention);
}

TEST(FlopsTest, CountsByHand) {
  Config config;
  config.model.d = 8;
  config.model.K = 2;
  config.model.tau = 4;
  config.model.expand_bits = 2;
  config.model.layers = 1;
  config.model.vocabulary = 10;
  // Tables: QKV 2 x 16 x 24, M1 2 x 16 x 12, M2 2 x 64 x 8; biases 24 + 12 + 8; gains 8 + 8 + 8 and
  // 12 + 12 between M1 and M2; embedding and head 80 each.
  const int64_t table_numbers = 768 + 384 + 1024;
  const FlopsReport memory = Flops(config, 5);
  EXPECT_EQ(memory.table_bytes, 4 * table_numbers);
  EXPECT_EQ(memory.parameters, table_numbers + 44 + 48 + 160);
  EXPECT_EQ(memory.block_flops_without_attention, 6 * 2 * 5 * 8);
  EXPECT_EQ(memory.block_flops, 480 + 2 * 25 * 8);

  config.model.projection = Projection::kDense;
  const FlopsReport dense = Flops(config, 5);
  EXPECT_EQ(dense.table_bytes, 0);
  // 12 d^2 weights; biases 24 + 8 + 32 + 8; gains 3 x 8; embedding and head.
  EXPECT_EQ(dense.parameters, 12 * 64 + 72 + 24 + 160);
  EXPECT_EQ(dense.block_flops_without_attention, 12 * 5 * 64);
  EXPECT_EQ(dense.model_flops, dense.block_flops + 5 * 8 * 10);
}

}  // namespace
}  // namespace mf
