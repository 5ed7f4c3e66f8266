#include "worker/train/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "worker/train/svg.h"

namespace mf {
namespace {

constexpr double kWidth = 840, kHeight = 480;
constexpr double kLeft = 70, kRight = 24, kTop = 48, kBottom = 58;
constexpr size_t kMaxPoints = 2000;  // more than pixels: a long run must not make a huge file
constexpr char kTrainColor[] = "#2b6cb0", kValidationColor[] = "#c05621";

std::string Format(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof(text), format, value);
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

/// An axis from data to pixels.
struct Axis {
  double low = 0, high = 1, step = 0.2;
  double pixel_low = 0, pixel_high = 1;

  static Axis Over(double low, double high, double pixel_low, double pixel_high) {
    if (!(high > low)) high = low + std::max(1e-6, std::fabs(low) * 0.1);
    const double step = NiceStep(high - low, 6);
    return {std::floor(low / step) * step, std::ceil(high / step) * step, step, pixel_low,
            pixel_high};
  }
  double Map(double value) const {
    return pixel_low + (value - low) / (high - low) * (pixel_high - pixel_low);
  }
  int Ticks() const { return static_cast<int>(std::lround((high - low) / step)); }
  double Tick(int i) const { return low + step * i; }
  std::string Label(double value) const {
    const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
    char text[48];
    std::snprintf(text, sizeof(text), "%.*f", digits, value == 0 ? 0.0 : value);
    return text;
  }
};

/// At most kMaxPoints: means of equal runs of points.
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

std::string Polyline(const std::vector<PlotPoint>& points, const Axis& x, const Axis& y,
                     const std::string& style) {
  std::string text = "<polyline fill=\"none\" " + style + " points=\"";
  for (const PlotPoint& point : points) {
    text += Pixel(x.Map(point.x)) + "," + Pixel(y.Map(point.y)) + " ";
  }
  return text + "\"/>\n";
}

std::string Line(double x1, double y1, double x2, double y2, const std::string& extra) {
  return "<line x1=\"" + Pixel(x1) + "\" y1=\"" + Pixel(y1) + "\" x2=\"" + Pixel(x2) + "\" y2=\"" +
         Pixel(y2) + "\" " + extra + "/>\n";
}

std::string Grid(const Axis& x, const Axis& y) {
  std::string text;
  for (int i = 0; i <= y.Ticks(); ++i) {
    const double at = y.Map(y.Tick(i));
    text += Line(kLeft, at, kWidth - kRight, at, "stroke=\"#e2e8f0\"");
    text += SvgText(kLeft - 8, at + 4, "text-anchor=\"end\"", y.Label(y.Tick(i)));
  }
  for (int i = 0; i <= x.Ticks(); ++i) {
    const double at = x.Map(x.Tick(i));
    text += Line(at, kHeight - kBottom, at, kHeight - kBottom + 5, "stroke=\"#4a5568\"");
    text += SvgText(at, kHeight - kBottom + 20, "text-anchor=\"middle\"", x.Label(x.Tick(i)));
  }
  text += Line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "stroke=\"#4a5568\"");
  text += Line(kLeft, kTop, kLeft, kHeight - kBottom, "stroke=\"#4a5568\"");
  text += SvgText((kLeft + kWidth - kRight) / 2, kHeight - 16, "text-anchor=\"middle\"", "step");
  const double middle = (kTop + kHeight - kBottom) / 2;
  text += SvgText(18, middle,
                  "text-anchor=\"middle\" transform=\"rotate(-90 18 " + Pixel(middle) + ")\"",
                  "loss (nats per token)");
  return text;
}

std::string Legend(const LossPlot& plot) {
  const double x = kWidth - kRight - 190;
  double y = kTop + 8;
  std::string text;
  const auto entry = [&](const std::string& style, const std::string& words) {
    text += Line(x, y - 4, x + 26, y - 4, style);
    text += SvgText(x + 34, y, "", words);
    y += 18;
  };
  if (!plot.train.empty()) {
    entry(std::string("stroke=\"") + kTrainColor + "\" stroke-opacity=\"0.3\"", "train, each step");
    entry(std::string("stroke-width=\"2\" stroke=\"") + kTrainColor + "\"", "train, smoothed");
  }
  if (!plot.validation.empty()) {
    const std::string last = Format("%.4f", plot.validation.back().y);
    entry(std::string("stroke-width=\"2\" stroke=\"") + kValidationColor + "\"",
          "validation, last " + last);
  }
  return text;
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
  const Axis x = Axis::Over(x_low, x_high, kLeft, kWidth - kRight);
  const Axis y = Axis::Over(y_low, y_high, kHeight - kBottom, kTop);
  const std::vector<PlotPoint> train = Thin(plot.train);
  const std::vector<PlotPoint> validation = Thin(plot.validation);
  const std::string train_color = std::string("stroke=\"") + kTrainColor + "\" ";
  const std::string validation_color = std::string("stroke=\"") + kValidationColor + "\" ";

  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " +
                    Format("%.0f", kWidth) + " " + Format("%.0f", kHeight) +
                    "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#2d3748\">\n";
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  svg += SvgText(kLeft, 26, "font-size=\"16\" font-weight=\"bold\"", Escaped(plot.title));
  svg += Grid(x, y);
  if (!train.empty()) {
    svg += Polyline(train, x, y, train_color + "stroke-opacity=\"0.3\"");
    svg += Polyline(Smooth(train), x, y, train_color + "stroke-width=\"2\"");
  }
  if (!validation.empty()) {
    svg += Polyline(validation, x, y, validation_color + "stroke-width=\"2\"");
    for (const PlotPoint& point : validation) {
      svg += "<circle cx=\"" + Pixel(x.Map(point.x)) + "\" cy=\"" + Pixel(y.Map(point.y)) +
             "\" r=\"3\" fill=\"" + kValidationColor + "\"/>\n";
    }
  }
  return svg + Legend(plot) + "</svg>\n";
}

}  // namespace mf
