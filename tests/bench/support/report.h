// The lines of a benchmark: printed, and written to a file for machines. A number means something
// only beside another one of the same run, so a line carries what it is compared with.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace mf {

struct Ratio {
  std::string what;  // that the value is compared with
  double value = 0;  // how many times that it is
};

class Report {
 public:
  /// `json_path`: one JSON object a line is appended to this file; empty: none.
  explicit Report(const std::string& json_path);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void Line(const std::string& name, double value, const std::string& unit,
            const std::vector<Ratio>& ratios = {}, const std::string& note = {});

 private:
  std::FILE* json_ = nullptr;
};

}  // namespace mf
