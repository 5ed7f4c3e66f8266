#include "worker/train/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "worker/train/axes.h"
#include "worker/train/svg.h"

namespace mf {
namespace {

constexpr char kTrainColor[] = "#2b6cb0", kValidationColor[] = "#c05621";

/// An exponential mean over about a fiftieth of the run, without a bias at its start.
std::vector<PlotPoint> Smooth(const std::vector<PlotPoint>& points) {
  const double decay = 1 - 1 / std::max(3.0, static_cast<double>(points.size()) / 50);
  double sum = 0, weight = 0;
  std::vector<PlotPoint> smooth;
  for (const PlotPoint& point : points) {
    sum = decay * sum + point.y;
    weight = decay * weight + 1;
    smooth.push_back({point.x, sum / weight});
  }
  return smooth;
}

std::string Legend(const LossPlot& plot) {
  const double x = kPlotRight - 190;
  double y = kPlotTop + 8;
  std::string text;
  const auto entry = [&](const std::string& style, const std::string& words) {
    text += PlotLine(x, y - 4, x + 26, y - 4, style);
    text += SvgText(x + 34, y, "", words);
    y += 18;
  };
  if (!plot.train.empty()) {
    entry(std::string("stroke=\"") + kTrainColor + "\" stroke-opacity=\"0.3\"", "train, each step");
    entry(std::string("stroke-width=\"2\" stroke=\"") + kTrainColor + "\"", "train, smoothed");
  }
  if (!plot.validation.empty()) {
    char last[48];
    std::snprintf(last, sizeof(last), "%.4f", plot.validation.back().y);
    entry(std::string("stroke-width=\"2\" stroke=\"") + kValidationColor + "\"",
          std::string("validation, last ") + last);
  }
  return text;
}

}  // namespace

std::string LossSvg(const LossPlot& plot) {
  double x_low = 0, x_high = 1, y_low = INFINITY, y_high = -INFINITY;
  for (const auto* points : {&plot.train, &plot.validation}) {
    for (const PlotPoint& point : *points) {
      x_high = std::max(x_high, point.x);
      y_low = std::min(y_low, point.y);
      y_high = std::max(y_high, point.y);
    }
  }
  if (!(y_low <= y_high)) y_low = 0, y_high = 1;
  const Axis x = Axis::Over(x_low, x_high, kPlotLeft, kPlotRight);
  const Axis y = Axis::Over(y_low, y_high, kPlotBottom, kPlotTop);
  const std::vector<PlotPoint> train = Thin(plot.train);
  const std::vector<PlotPoint> validation = Thin(plot.validation);
  const std::string train_color = std::string("stroke=\"") + kTrainColor + "\" ";
  const std::string validation_color = std::string("stroke=\"") + kValidationColor + "\" ";

  std::string svg = PlotHead(plot.title) + PlotGrid(x, y, "step", "loss (nats per token)");
  if (!train.empty()) {
    svg += Polyline(train, x, y, train_color + "stroke-opacity=\"0.3\"");
    svg += Polyline(Smooth(train), x, y, train_color + "stroke-width=\"2\"");
  }
  if (!validation.empty()) {
    svg += Polyline(validation, x, y, validation_color + "stroke-width=\"2\"");
    for (const PlotPoint& point : validation) svg += PlotDot(point, x, y, kValidationColor);
  }
  return svg + Legend(plot) + "</svg>\n";
}

}  // namespace mf
