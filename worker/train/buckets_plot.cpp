#include "worker/train/buckets_plot.h"

#include <algorithm>

#include "worker/train/svg.h"

namespace mf {
namespace {

constexpr double kLabelWidth = 130, kPlotWidth = 384, kPlotHeight = 60, kGap = 22, kHeadHeight = 64;
constexpr double kRowHeight = kPlotHeight + kGap;
constexpr double kImageWidth = kLabelWidth + 2 * (kPlotWidth + kGap) + 10;
constexpr double kEvenAt =
    0.5;  // of a plot's height: a bar of twice the even share touches the top

/// A table's bars; even use is the dashed line, bars above twice that are cut and marked.
std::string Histogram(const TableBuckets& table, double x, double y) {
  const size_t bins = static_cast<size_t>(std::min<uint64_t>(kBucketBins, table.rows));
  const double width = kPlotWidth / static_cast<double>(bins);
  std::string svg;
  for (size_t bin = 0; bin < bins && table.hits > 0; ++bin) {
    const double share = static_cast<double>(table.bins[bin]) * static_cast<double>(bins) /
                         static_cast<double>(table.hits);
    const bool cut = share * kEvenAt > 1;
    const double height = std::min(1.0, share * kEvenAt) * kPlotHeight;
    svg += "<rect x=\"" + Pixel(x + static_cast<double>(bin) * width) + "\" y=\"" +
           Pixel(y + kPlotHeight - height) + "\" width=\"" + Pixel(std::max(0.5, width - 1)) +
           "\" height=\"" + Pixel(height) + "\" fill=\"" + (cut ? "#c05621" : "#2b6cb0") + "\"/>\n";
  }
  const std::string even = Pixel(y + kPlotHeight * (1 - kEvenAt));
  const auto line = [&](const std::string& at, const std::string& style) {
    svg += "<line x1=\"" + Pixel(x) + "\" y1=\"" + at + "\" x2=\"" + Pixel(x + kPlotWidth) +
           "\" y2=\"" + at + "\" " + style + "/>\n";
  };
  line(even, "stroke=\"#718096\" stroke-dasharray=\"4 3\"");
  line(Pixel(y + kPlotHeight), "stroke=\"#4a5568\"");
  char words[96];
  std::snprintf(words, sizeof words, "entropy %.3f, coverage %.3f, top row %.2f%%",
                table.entropy_ratio(), table.coverage_ratio(), 100 * table.top1_ratio());
  return svg + SvgText(x, y + kPlotHeight + 13, "font-size=\"10\" fill=\"#718096\"", words);
}

}  // namespace

std::string BucketsSvg(uint64_t step, const std::vector<LayerHits>& layers) {
  const double height = kHeadHeight + static_cast<double>(layers.size()) * kRowHeight + 10;
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " +
                    Pixel(kImageWidth) + " " + Pixel(height) +
                    "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#2d3748\">\n"
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  svg += SvgText(10, 24, "font-size=\"16\" font-weight=\"bold\"",
                 "Hits by bucket after step " + std::to_string(step));
  svg += SvgText(10, 44, "fill=\"#718096\"",
                 "64 bins of the bucket number; dashed: even use; orange: more than twice that");
  svg += SvgText(kLabelWidth, kHeadHeight - 6, "font-weight=\"bold\"", "first table");
  svg += SvgText(kLabelWidth + kPlotWidth + kGap, kHeadHeight - 6, "font-weight=\"bold\"",
                 "last table");
  for (size_t i = 0; i < layers.size(); ++i) {
    const double y = kHeadHeight + static_cast<double>(i) * kRowHeight;
    svg += SvgText(10, y + kPlotHeight / 2 + 4, "", layers[i].name);
    if (layers[i].tables.empty()) continue;
    svg += Histogram(layers[i].tables.front(), kLabelWidth, y);
    svg += Histogram(layers[i].tables.back(), kLabelWidth + kPlotWidth + kGap, y);
  }
  return svg + "</svg>\n";
}

}  // namespace mf
