// Another program of a benchmark (a server, PyTorch), talked to in lines over pipes.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace mf {

class Child {
 public:
  /// Starts argv[0], found in PATH. A program that cannot be started answers no line.
  explicit Child(const std::vector<std::string>& argv);
  /// Ends it (SIGTERM) and waits for it.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void Write(const std::string& line);
  /// The next line of its standard output, without the line's end; none if it has ended.
  std::optional<std::string> Read();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

}  // namespace mf
