// What pictures with two axes have in common.
#pragma once

#include <string>
#include <vector>

#include "worker/train/plot.h"

namespace mf {

// Where the axes stand, in pixels.
inline constexpr double kPlotLeft = 70, kPlotRight = 816, kPlotTop = 48, kPlotBottom = 422;

/// From data to pixels, with ticks at round numbers.
struct Axis {
  double low = 0, high = 1, step = 0.2;
  double pixel_low = 0, pixel_high = 1;

  static Axis Over(double low, double high, double pixel_low, double pixel_high);
  double Map(double value) const {
    return pixel_low + (value - low) / (high - low) * (pixel_high - pixel_low);
  }
  int Ticks() const;
  double Tick(int i) const { return low + step * i; }
  std::string Label(double value) const;
};

/// The beginning of the file, up to the title; "</svg>\n" ends it.
std::string PlotHead(const std::string& title);
std::string PlotGrid(const Axis& x, const Axis& y, const std::string& x_name,
                     const std::string& y_name);
/// `style`, `extra`: attributes.
std::string PlotLine(double x1, double y1, double x2, double y2, const std::string& extra);
std::string Polyline(const std::vector<PlotPoint>& points, const Axis& x, const Axis& y,
                     const std::string& style);
std::string PlotDot(const PlotPoint& point, const Axis& x, const Axis& y, const std::string& color);
/// Words as XML takes them.
std::string Escaped(const std::string& words);

/// At most as many as there are pixels: means of equal runs of points.
std::vector<PlotPoint> Thin(const std::vector<PlotPoint>& points);

}  // namespace mf
