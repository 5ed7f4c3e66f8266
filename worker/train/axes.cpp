#include "worker/train/axes.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "worker/train/svg.h"

namespace mf {
namespace {

constexpr double kWidth = 840, kHeight = 480;
constexpr size_t kMaxPoints = 2000;  // more than pixels: a long run must not make a huge file

std::string Whole(double value) {
  char text[48];
  std::snprintf(text, sizeof(text), "%.0f", value);
  return text;
}

/// 1, 2 or 5 times a power of ten, such that `span` has about `count` of it.
double NiceStep(double span, int count) {
  const double raw = span / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

}  // namespace

Axis Axis::Over(double low, double high, double pixel_low, double pixel_high) {
  if (!(high > low)) high = low + std::max(1e-6, std::fabs(low) * 0.1);
  const double step = NiceStep(high - low, 6);
  return {std::floor(low / step) * step, std::ceil(high / step) * step, step, pixel_low,
          pixel_high};
}

int Axis::Ticks() const { return static_cast<int>(std::lround((high - low) / step)); }

std::string Axis::Label(double value) const {
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  char text[48];
  std::snprintf(text, sizeof(text), "%.*f", digits, value == 0 ? 0.0 : value);
  return text;
}

std::vector<PlotPoint> Thin(const std::vector<PlotPoint>& points) {
  const size_t run = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (run <= 1) return points;
  std::vector<PlotPoint> thin;
  for (size_t begin = 0; begin < points.size(); begin += run) {
    const size_t end = std::min(points.size(), begin + run);
    PlotPoint mean;
    for (size_t i = begin; i < end; ++i) {
      mean.x += points[i].x / static_cast<double>(end - begin);
      mean.y += points[i].y / static_cast<double>(end - begin);
    }
    thin.push_back(mean);
  }
  return thin;
}

std::string Polyline(const std::vector<PlotPoint>& points, const Axis& x, const Axis& y,
                     const std::string& style) {
  std::string text = "<polyline fill=\"none\" " + style + " points=\"";
  for (const PlotPoint& point : points) {
    text += Pixel(x.Map(point.x)) + "," + Pixel(y.Map(point.y)) + " ";
  }
  return text + "\"/>\n";
}

std::string PlotLine(double x1, double y1, double x2, double y2, const std::string& extra) {
  return "<line x1=\"" + Pixel(x1) + "\" y1=\"" + Pixel(y1) + "\" x2=\"" + Pixel(x2) + "\" y2=\"" +
         Pixel(y2) + "\" " + extra + "/>\n";
}

std::string PlotDot(const PlotPoint& point, const Axis& x, const Axis& y,
                    const std::string& color) {
  return "<circle cx=\"" + Pixel(x.Map(point.x)) + "\" cy=\"" + Pixel(y.Map(point.y)) +
         "\" r=\"3\" fill=\"" + color + "\"/>\n";
}

std::string PlotHead(const std::string& title) {
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + Whole(kWidth) +
                    " " + Whole(kHeight) +
                    "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#2d3748\">\n";
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  return svg + SvgText(kPlotLeft, 26, "font-size=\"16\" font-weight=\"bold\"", Escaped(title));
}

std::string PlotGrid(const Axis& x, const Axis& y, const std::string& x_name,
                     const std::string& y_name) {
  std::string text;
  for (int i = 0; i <= y.Ticks(); ++i) {
    const double at = y.Map(y.Tick(i));
    text += PlotLine(kPlotLeft, at, kPlotRight, at, "stroke=\"#e2e8f0\"");
    text += SvgText(kPlotLeft - 8, at + 4, "text-anchor=\"end\"", y.Label(y.Tick(i)));
  }
  for (int i = 0; i <= x.Ticks(); ++i) {
    const double at = x.Map(x.Tick(i));
    text += PlotLine(at, kPlotBottom, at, kPlotBottom + 5, "stroke=\"#4a5568\"");
    text += SvgText(at, kPlotBottom + 20, "text-anchor=\"middle\"", x.Label(x.Tick(i)));
  }
  text += PlotLine(kPlotLeft, kPlotBottom, kPlotRight, kPlotBottom, "stroke=\"#4a5568\"");
  text += PlotLine(kPlotLeft, kPlotTop, kPlotLeft, kPlotBottom, "stroke=\"#4a5568\"");
  text += SvgText((kPlotLeft + kPlotRight) / 2, kHeight - 16, "text-anchor=\"middle\"",
                  Escaped(x_name));
  const double middle = (kPlotTop + kPlotBottom) / 2;
  return text + SvgText(18, middle,
                        "text-anchor=\"middle\" transform=\"rotate(-90 18 " + Pixel(middle) + ")\"",
                        Escaped(y_name));
}

std::string Escaped(const std::string& words) {
  std::string text;
  for (const char c : words) {
    if (c == '<')
      text += "&lt;";
    else if (c == '&')
      text += "&amp;";
    else
      text += c;
  }
  return text;
}

}  // namespace mf
