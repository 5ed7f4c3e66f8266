// Goal: whatever is thrown, wherever, and whatever happens to a mapped file, the program ends with
// one line and exit code 1, not by a signal.
#include "common/base/run_program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>
#include <stdexcept>
#include <thread>

#include "common/base/input_file.h"

namespace mf {
namespace {

const auto kEndsByOne = testing::ExitedWithCode(1);

class RunProgramDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(RunProgramDeathTest, TheCodeOfTheBodyIsTheProgramS) {
  EXPECT_EXIT(_exit(RunProgram([] { return 7; })), testing::ExitedWithCode(7), "^$");
}

TEST_F(RunProgramDeathTest, WhatIsThrownIsALine) {
  EXPECT_EXIT(RunProgram([]() -> int { throw std::bad_alloc(); }), kEndsByOne,
              "^error: out of memory[^\n]*\n$");
  EXPECT_EXIT(RunProgram([]() -> int { throw std::runtime_error("one\nline"); }), kEndsByOne,
              "^error: one line\n$");
  EXPECT_EXIT(RunProgram([]() -> int { throw 5; }), kEndsByOne, "^error: [^\n]*\n$");
  EXPECT_EXIT(RunProgram([]() -> int {
                return static_cast<int>(std::filesystem::file_size("/none/of/this"));
              }),
              kEndsByOne, "^error: [^\n]*/none/of/this[^\n]*\n$");
}

TEST_F(RunProgramDeathTest, AlsoInAnotherThread) {
  EXPECT_EXIT(RunProgram([] {
                std::thread([] { throw std::bad_alloc(); }).join();
                return 0;
              }),
              kEndsByOne, "^error: out of memory[^\n]*\n$");
}

TEST_F(RunProgramDeathTest, AMappedFileThatIsCutIsNamed) {
  const std::string path = testing::TempDir() + "run_program_test";
  std::ofstream(path) << std::string(100'000, 'x');
  const auto read_cut = [&](const std::string& name) {
    auto map = MappedFile::Open(name, "it");
    if (!map.ok()) return 3;
    if (truncate(name.c_str(), 10) != 0) return 4;
    return static_cast<int>(map.value()->data()[50'000]) == 'x' ? 5 : 6;
  };
  EXPECT_EXIT(_exit(RunProgram([&] { return read_cut(path); })), kEndsByOne,
              "^error: [^\n]*run_program_test: cut short[^\n]*\n$");
}

TEST_F(RunProgramDeathTest, ClosedStreamsAreNotTakenByFiles) {
  EXPECT_EXIT(
      {
        for (int stream = 0; stream < 2; ++stream) close(stream);
        _exit(RunProgram([] {
          const int file = open("/dev/null", O_RDONLY);
          return file > 2 ? 7 : 8;
        }));
      },
      testing::ExitedWithCode(7), "^$");
}

TEST_F(RunProgramDeathTest, OutputThatIsLostIsALine) {
  const auto speak = [](const char* path, int code) {
    const int file = open(path, O_WRONLY);
    dup2(file, STDOUT_FILENO);
    return RunProgram([&] {
      std::printf("an answer\n");
      return code;
    });
  };
  EXPECT_EXIT(_exit(speak("/dev/full", 0)), kEndsByOne,
              "^error: standard output cannot be written: No space left on device\n$");
  EXPECT_EXIT(_exit(speak("/dev/full", 2)), testing::ExitedWithCode(2), "^$");
  EXPECT_EXIT(_exit(speak("/dev/null", 0)), testing::ExitedWithCode(0), "^$");
}

TEST_F(RunProgramDeathTest, AReaderThatGoesEndsQuietly) {
  const auto speak = [](bool flush, size_t bytes) {
    int ends[2];
    if (pipe(ends) != 0) return 9;
    close(ends[0]);
    dup2(ends[1], STDOUT_FILENO);
    return RunProgram([&] {
      std::fputs(std::string(bytes, 'x').c_str(), stdout);
      return flush && !FlushOutput().ok() ? 8 : 0;
    });
  };
  for (const size_t bytes : {10, 1'000'000}) {
    EXPECT_EXIT(_exit(speak(false, bytes)), testing::ExitedWithCode(141), "^$");
    EXPECT_EXIT(_exit(speak(true, bytes)), testing::ExitedWithCode(141), "^$");
  }
}

TEST_F(RunProgramDeathTest, WhoeverServesGoesOnWithoutOutput) {
  EXPECT_EXIT(
      {
        const int file = open("/dev/full", O_WRONLY);
        dup2(file, STDOUT_FILENO);
        _exit(RunProgram([] {
          std::printf("listening\n");
          if (FlushOutputOrDrop().ok() || !FlushOutputOrDrop().ok()) return 8;
          std::printf("and more\n");
          return 0;
        }));
      },
      testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace mf
