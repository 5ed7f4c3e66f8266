#include "worker/experiment/curves.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "worker/train/axes.h"
#include "worker/train/svg.h"

namespace mf {
namespace {

// Told apart by those who see no red or green, too (Okabe and Ito's palette).
constexpr std::array kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                "#e69f00", "#56b4e9", "#000000"};
constexpr std::array kDashes = {"", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 3\""};

std::string StyleOf(size_t curve) {
  return std::string("stroke-width=\"2\" stroke=\"") + kColors[curve % kColors.size()] + "\"" +
         kDashes[curve / kColors.size() % kDashes.size()];
}

/// 1000 to which power x is shown in.
int PowerOf(double x_high) {
  return x_high < 1e4 ? 0 : static_cast<int>(std::floor(std::log10(x_high) / 3));
}

std::string Unit(int power) { return power == 0 ? "" : " (10^" + std::to_string(3 * power) + ")"; }

}  // namespace

std::string CurvesSvg(const CurvesPlot& plot) {
  double x_high = 0, y_low = INFINITY, y_high = -INFINITY;
  for (const Curve& curve : plot.curves) {
    for (size_t i = 0; i < curve.points.size(); ++i) {
      const double spread = curve.spread.empty() ? 0 : curve.spread[i];
      x_high = std::max(x_high, curve.points[i].x);
      y_low = std::min(y_low, curve.points[i].y - spread);
      y_high = std::max(y_high, curve.points[i].y + spread);
    }
  }
  if (!(y_low <= y_high)) y_low = 0, y_high = 1;
  const int power = PowerOf(x_high);
  const double unit = std::pow(1000.0, power);
  const Axis x = Axis::Over(0, x_high > 0 ? x_high / unit : 1, kPlotLeft, kPlotRight);
  const Axis y = Axis::Over(y_low, y_high, kPlotBottom, kPlotTop);
  std::string svg = PlotHead(plot.title) + PlotGrid(x, y, plot.x_name + Unit(power), plot.y_name);
  double legend = kPlotTop + 8;
  for (size_t c = 0; c < plot.curves.size(); ++c) {
    const Curve& curve = plot.curves[c];
    std::vector<PlotPoint> points = curve.points;
    for (PlotPoint& point : points) point.x /= unit;
    const std::string style = StyleOf(c);
    if (points.size() > 1) svg += Polyline(Thin(points), x, y, style);
    for (size_t i = 0; i < points.size() && points.size() <= 100; ++i) {
      svg += PlotDot(points[i], x, y, kColors[c % kColors.size()]);
      if (curve.spread.empty()) continue;
      const double at = x.Map(points[i].x);
      svg += PlotLine(at, y.Map(points[i].y - curve.spread[i]), at,
                      y.Map(points[i].y + curve.spread[i]), style);
    }
    svg += PlotLine(kPlotRight - 190, legend - 4, kPlotRight - 164, legend - 4, style);
    svg += SvgText(kPlotRight - 156, legend, "", Escaped(curve.name));
    legend += 18;
  }
  return svg + "</svg>\n";
}

}  // namespace mf
