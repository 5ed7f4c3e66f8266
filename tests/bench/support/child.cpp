#include "tests/bench/support/child.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "common/base/check.h"

namespace mf {

Child::Child(const std::vector<std::string>& argv) {
  int in[2], out[2];
  MF_CHECK(pipe(in) == 0 && pipe(out) == 0);
  std::vector<char*> arguments;
  for (const std::string& argument : argv) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  pid_ = fork();
  MF_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // a benchmark that is killed leaves nobody behind
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    for (const int end : {in[0], in[1], out[0], out[1]}) close(end);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to_ = fdopen(in[1], "w");
  from_ = fdopen(out[0], "r");
  MF_CHECK(to_ != nullptr && from_ != nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a child that is gone shows as no answer
}

Child::~Child() {
  kill(pid_, SIGTERM);
  std::fclose(to_);
  std::fclose(from_);
  waitpid(pid_, nullptr, 0);
}

void Child::Write(const std::string& line) {
  std::fprintf(to_, "%s\n", line.c_str());
  std::fflush(to_);
}

std::optional<std::string> Child::Read() {
  std::string line;
  int c;
  while ((c = std::fgetc(from_)) != EOF && c != '\n') line.push_back(static_cast<char>(c));
  if (c == EOF && line.empty()) return std::nullopt;
  return line;
}

}  // namespace mf
