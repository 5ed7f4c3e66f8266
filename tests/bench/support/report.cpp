#include "tests/bench/support/report.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

namespace mf {

Report::Report(const std::string& json_path) {
  if (json_path.empty()) return;
  json_ = std::fopen(json_path.c_str(), "a");
  if (json_ == nullptr) {
    std::fprintf(stderr, "%s cannot be written\n", json_path.c_str());
    std::exit(1);
  }
}

Report::~Report() {
  if (json_ != nullptr) std::fclose(json_);
}

void Report::Line(const std::string& name, double value, const std::string& unit,
                  const std::vector<Ratio>& ratios, const std::string& note) {
  std::printf("%-50s %11.1f %-9s", name.c_str(), value, unit.c_str());
  const char* separator = "";
  for (const Ratio& ratio : ratios) {
    std::printf("%s %5.2f x %s", separator, ratio.value, ratio.what.c_str());
    separator = ";";
  }
  std::printf("%s%s\n", note.empty() ? "" : (ratios.empty() ? "  " : "; "), note.c_str());
  std::fflush(stdout);
  if (json_ == nullptr) return;
  nlohmann::ordered_json line = {{"name", name}, {"value", value}, {"unit", unit}};
  line["ratios"] = nlohmann::ordered_json::object();
  for (const Ratio& ratio : ratios) line["ratios"][ratio.what] = ratio.value;
  std::fprintf(json_, "%s\n", line.dump().c_str());
  std::fflush(json_);
}

}  // namespace mf
