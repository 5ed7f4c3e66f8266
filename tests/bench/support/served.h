// A server of a benchmark, in a process of its own, and how long it takes to say how it is.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/support/child.h"
#include "tests/bench/support/report.h"

namespace mf {

/// A server on `folder`, and where it listens; nullptr if there is none.
std::unique_ptr<Child> StartServer(const std::string& pserver, const std::string& folder,
                                   const std::string& listen, int threads, std::string* address);

/// Seconds by what the server said that it was at.
using StatusTimes = std::map<std::string, std::vector<double>>;

/// Asks a server how it is, from a thread of its own, until destroyed.
class StatusAsker {
 public:
  StatusAsker(std::string address, StatusTimes& seconds);
  ~StatusAsker();
  /// The newest snapshot, if none is being written; 0: there is none.
  uint64_t saved() const { return saved_.load(); }

 private:
  void Run();

  const std::string address_;
  StatusTimes& seconds_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> saved_{0};
  std::thread thread_;
};

/// A line for each, and one for all.
void ReportStatus(StatusTimes seconds, Report& report);

}  // namespace mf
