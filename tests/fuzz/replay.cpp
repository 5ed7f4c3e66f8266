// Runs a fuzz target on kept inputs, without libFuzzer: fuzz_TARGET PATH..., files or folders of
// files. A case that crashes, or takes longer than any may, ends the program with its name.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/support/target.h"

namespace {

namespace fs = std::filesystem;

constexpr unsigned kSecondsMax = 60;  // of one case, on a busy machine under sanitizers

char running[4096] = "";  // for the handler, which may not allocate

void Write(const char* text) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

extern "C" void NameCase(int number) {
  Write(number == SIGALRM ? "too slow: " : "crashed: ");
  Write(running);
  Write("\n");
  signal(number, SIG_DFL);
  raise(number);
}

std::vector<fs::path> CasesIn(const std::vector<std::string>& places) {
  std::vector<fs::path> cases;
  for (const fs::path place : places) {
    if (!fs::is_directory(place)) {
      cases.push_back(place);
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(place)) {
      if (entry.is_regular_file()) cases.push_back(entry.path());
    }
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

bool Run(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) {
    std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
    return false;
  }
  std::snprintf(running, sizeof(running), "%s", path.c_str());
  alarm(kSecondsMax);
  // Of its exact size, so that a sanitizer sees a read beyond its end.
  const std::vector<uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  alarm(0);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}) {
    signal(number, NameCase);
  }
  const std::vector<fs::path> cases = CasesIn({argv + 1, argv + argc});
  if (cases.empty()) {
    std::fprintf(stderr, "usage: %s FILE|FOLDER...   (there is no case in what was named)\n",
                 argv[0]);
    return 2;
  }
  const bool all = std::all_of(cases.begin(), cases.end(), Run);
  std::printf("%zu cases\n", cases.size());
  return all ? 0 : 1;
}
