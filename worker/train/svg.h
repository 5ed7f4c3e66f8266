// The pieces of SVG that the pictures of a run have in common.
#pragma once

#include <cstdio>
#include <string>

namespace mf {

/// A coordinate: a tenth of a pixel is enough.
inline std::string Pixel(double value) {
  char text[48];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

/// `words` at (x, y); `extra`: attributes. Nothing is escaped.
inline std::string SvgText(double x, double y, const std::string& extra, const std::string& words) {
  return "<text x=\"" + Pixel(x) + "\" y=\"" + Pixel(y) + "\" " + extra + ">" + words + "</text>\n";
}

}  // namespace mf
