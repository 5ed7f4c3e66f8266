// What a run says of its exchange: a line for each kind of layer and way.
#include "worker/exchange/exchange_report.h"

#include <gtest/gtest.h>

#include "worker/config/tensors.h"

namespace mf {
namespace {

std::vector<std::string> Lines(const std::vector<std::string>& overrides) {
  Result<Config> config = LoadConfig("", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return DescribeExchange(*config, TensorsOf(*config));
}

bool Has(const std::string& line, const char* part) { return line.find(part) != std::string::npos; }

TEST(ExchangeReport, SaysWhereAndWhy) {
  // Default: four layers of each kind, all alike.
  std::vector<std::string> lines = Lines({});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(Has(lines[0], "qkv, 4 layers: tables on the servers; exchanged as ")) << lines[0];
  EXPECT_TRUE(Has(lines[1], "m1, 4 layers: ")) << lines[1];
  EXPECT_TRUE(Has(lines[2], "m2, 4 layers: ")) << lines[2];
  EXPECT_TRUE(Has(lines[0], " MB a micro-batch (as ")) << lines[0];

  // qkv of one layer is 16 * 256 * 384 * 4 = 6.3 MB: room for that of the first block and no more.
  lines = Lines({"exchange.device_bytes=6500000"});
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(Has(lines[0], "qkv, 1 layers: GPU workers keep copies of 6.29 MB a layer (they fit "))
      << lines[0];
  EXPECT_TRUE(Has(lines[0], "gradients as ")) << lines[0];

  lines = Lines({"exchange.placement=device", "exchange.mode=pull"});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(Has(lines[0], "(exchange.placement = device)")) << lines[0];
  EXPECT_TRUE(Has(lines[0], "gradients as rows")) << lines[0];
  EXPECT_TRUE(Has(lines[0], "exchange.mode is set")) << lines[0];

  EXPECT_TRUE(Lines({"model.projection=dense"}).empty());
}

}  // namespace
}  // namespace mf
