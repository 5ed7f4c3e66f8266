// The loss curve as a self-contained SVG file.
#pragma once

#include <string>
#include <vector>

namespace mf {

struct PlotPoint {
  double x = 0;  // step
  double y = 0;  // nats per token
};

struct LossPlot {
  std::string title;
  std::vector<PlotPoint> train;       // by rising x, finite; drawn faint, and smoothed on top
  std::vector<PlotPoint> validation;  // the same; drawn as dots on a line
};

/// Pure: equal plots are equal bytes. Without points, axes alone.
std::string LossSvg(const LossPlot& plot);

}  // namespace mf
