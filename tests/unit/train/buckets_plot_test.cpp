// Goal: the picture of bucket hits shows the counts: a bar a bin, its height the bin's share beside
// even use, cut and marked above twice that.
#include "worker/train/buckets_plot.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

namespace mf {
namespace {

constexpr const char* kUsual = "#2b6cb0";
constexpr const char* kCut = "#c05621";

TableBuckets Hits(uint64_t rows, const std::vector<uint64_t>& bins) {
  TableBuckets table;
  table.rows = rows;
  for (size_t i = 0; i < bins.size(); ++i) table.hits += table.bins[i] = bins[i];
  return table;
}

/// Heights of the bars of this colour, in their order.
std::vector<double> Bars(const std::string& svg, const std::string& colour) {
  const std::regex bar("<rect [^>]*height=\"([0-9.]+)\" fill=\"" + colour + "\"/>");
  std::vector<double> heights;
  for (auto at = std::sregex_iterator(svg.begin(), svg.end(), bar); at != std::sregex_iterator();
       ++at) {
    heights.push_back(std::stod((*at)[1]));
  }
  return heights;
}

TEST(BucketsPlot, ABarIsItsBinsShareBesideEvenUse) {
  // Even use is 4 a bin; the first table is drawn, then the last, and none between them.
  const LayerHits layer{"blocks.0.qkv",
                        {Hits(4, {4, 2, 6, 4}), Hits(4, {9, 9, 9, 9}), Hits(4, {13, 1, 1, 1})}};
  const std::string svg = BucketsSvg(7, {layer});
  const std::vector<double> bars = Bars(svg, kUsual);
  ASSERT_EQ(bars.size(), 7u);
  const double even = bars[0];
  EXPECT_GT(even, 0);
  EXPECT_EQ(std::vector<double>(bars.begin() + 1, bars.begin() + 4),
            (std::vector{even / 2, even * 1.5, even}));
  EXPECT_EQ(std::vector<double>(bars.begin() + 4, bars.end()), std::vector(3, even / 4));
  EXPECT_EQ(Bars(svg, kCut), std::vector{2 * even});
  EXPECT_NE(svg.find("after step 7"), std::string::npos);
  EXPECT_NE(svg.find("blocks.0.qkv"), std::string::npos);
}

TEST(BucketsPlot, ManyRowsShareBins) {
  const std::vector<uint64_t> even(kBucketBins, 3);
  EXPECT_EQ(Bars(BucketsSvg(1, {{"m1", {Hits(256, even)}}}), kUsual).size(), 2 * kBucketBins);
}

TEST(BucketsPlot, NothingWasHitYet) {
  const std::string svg = BucketsSvg(0, {{"m1", {Hits(4, {})}}, {"m2", {}}});
  EXPECT_TRUE(Bars(svg, kUsual).empty());
  EXPECT_TRUE(Bars(svg, kCut).empty());
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  EXPECT_EQ(BucketsSvg(0, {}).find("<svg "), 0u);
}

}  // namespace
}  // namespace mf
