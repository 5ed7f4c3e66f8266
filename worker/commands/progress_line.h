// A line on standard error that says how far a command is: redrawn on a terminal, and a new one
// every ten seconds elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace mf {

class ProgressLine {
 public:
  ProgressLine();
  /// Ends the line.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// `done` of `all`; `rest` says the rest of the line, if it is time for one, after so many
  /// seconds. Cheap, so that it may be called often.
  void Show(uint64_t done, uint64_t all, const std::function<std::string(double seconds)>& rest);

 private:
  const bool terminal_;
  const double begin_;
  double shown_;
  bool open_ = false;
};

}  // namespace mf
