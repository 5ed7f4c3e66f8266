// Curves of several variants in one picture, a self-contained SVG file.
#pragma once

#include <string>
#include <vector>

#include "worker/train/plot.h"

namespace mf {

struct Curve {
  std::string name;
  std::vector<PlotPoint> points;    // by rising x, finite
  std::vector<double> spread = {};  // of each y, drawn as a line up and down; or empty
};

struct CurvesPlot {
  std::string title, x_name, y_name;  // large numbers of x are shown in powers of 1000
  std::vector<Curve> curves;
};

/// Pure: equal plots are equal bytes. Without points, axes alone.
std::string CurvesSvg(const CurvesPlot& plot);

}  // namespace mf
