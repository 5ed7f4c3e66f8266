// Goal: metrics.jsonl reads back exactly, survives kills and rollbacks, and the plot is
// well-formed.
#include "worker/train/report.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "worker/train/plot.h"

namespace mf {
namespace {

class Report : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "report_test";
    std::filesystem::remove_all(folder_);
  }
  std::string ReadAll(const std::string& name) const {
    std::ifstream in(folder_ + "/" + name);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  static StepReport Step(int64_t step, double loss) {
    StepReport report;
    report.step = step;
    report.loss = loss;
    report.lr = 0.003;
    report.grad_norm = 1.5;
    report.tokens = step * 100;
    report.tokens_per_second = 1234.5;
    return report;
  }
  std::string folder_;
};

TEST_F(Report, LinesAreShortAndExact) {
  StepReport report = Step(3, 0.1);
  EXPECT_EQ(JsonLine(report),
            "{\"step\":3,\"loss\":0.1,\"lr\":0.003,\"grad_norm\":1.5,\"tokens\":300,"
            "\"tokens_per_second\":1234.5}");
  report.loss = std::nan("");
  report.dropped = true;
  report.val_loss = 1.0 / 3;
  EXPECT_NE(JsonLine(report).find("\"loss\":null"), std::string::npos);
  EXPECT_NE(JsonLine(report).find("\"dropped\":true,\"val_loss\":0.3333333333333333}"),
            std::string::npos)
      << JsonLine(report);
}

TEST_F(Report, WritesReadsAndDraws) {
  const auto report = RunReport::Open({folder_ + "/deep/er", 4, nullptr});
  ASSERT_TRUE(report.ok()) << report.status().message();
  for (int64_t step = 1; step <= 4; ++step) {
    StepReport line = Step(step, 1.0 / static_cast<double>(step));
    if (step == 4) line.val_loss = 0.7;
    report.value()->Step(line);
    EXPECT_EQ(ReadMetrics(folder_ + "/deep/er/metrics.jsonl").size(), static_cast<size_t>(step));
  }
  const auto lines = ReadMetrics(folder_ + "/deep/er/metrics.jsonl");
  EXPECT_EQ(lines[2].loss, 1.0 / 3);
  EXPECT_EQ(lines[2].tokens, 300);
  EXPECT_FALSE(lines[2].val_loss.has_value());
  EXPECT_EQ(lines[3].val_loss, 0.7);
  report.value()->Finish();
  const std::string svg = ReadAll("deep/er/loss.svg");
  EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("validation, last 0.7000"), std::string::npos);
}

TEST_F(Report, TheLastLineOfAStepCountsAndCutLinesDoNot) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ + "/metrics.jsonl") << JsonLine(Step(1, 5)) << "\n"
                                            << JsonLine(Step(2, 4)) << "\n{\"step\":3,\"lo";
  const auto report = RunReport::Open({folder_, 3, nullptr});
  ASSERT_TRUE(report.ok());
  report.value()->Step(Step(2, 3));
  const auto lines = ReadMetrics(folder_ + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].loss, 5);
  EXPECT_EQ(lines[1].loss, 3);
}

TEST_F(Report, ALongRunTakesLittleMemory) {
  constexpr int64_t kSteps = 50000;
  auto report = RunReport::Open({folder_, kSteps, nullptr});
  ASSERT_TRUE(report.ok());
  const size_t before = mallinfo2().uordblks;
  for (int64_t step = 1; step <= kSteps; ++step)
    (*report)->Step(Step(step, 1.0 / static_cast<double>(step)));
  EXPECT_LT(mallinfo2().uordblks - before, 10 * kSteps);
  const std::string lines = ReadAll("metrics.jsonl");
  for (int64_t step = 1; step <= kSteps; step += 999)
    (*report)->Step(Step(step, 1.0 / static_cast<double>(step)));
  EXPECT_EQ(ReadAll("metrics.jsonl"), lines) << "told once more";
  auto again = RunReport::Open({folder_, kSteps, nullptr});
  (*again)->Step(Step(kSteps, 1.0 / kSteps));
  EXPECT_EQ(ReadAll("metrics.jsonl"), lines) << "by another process";
  (*again)->Step(Step(kSteps, 2));
  EXPECT_EQ(ReadAll("metrics.jsonl"), lines + JsonLine(Step(kSteps, 2)) + "\n");
}

TEST_F(Report, ProgressIsPlainLinesInAFile) {
  std::FILE* progress = std::tmpfile();
  const auto report =
      RunReport::Open({.out = folder_, .steps = 2, .progress = progress, .tokens_per_epoch = 80});
  StepReport first = Step(1, 2);
  first.tokens_per_second = std::nan("");
  report.value()->Step(first);
  report.value()->Step(Step(2, 1));
  char text[400] = {};
  std::rewind(progress);
  const size_t size = std::fread(text, 1, sizeof(text) - 1, progress);
  EXPECT_EQ(std::string(text, size),
            "step 1/2  loss 2.0000  epoch 1.25\n"
            "step 2/2  loss 1.0000  epoch 2.50  1,235 tokens/s\n");
  std::fclose(progress);
}

TEST_F(Report, RefusesAFolderThatCanNotBeWritten) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ + "/file") << "x";
  for (const std::string& out : {folder_ + "/file", folder_ + "/file/below"}) {
    const auto report = RunReport::Open({out, 1, nullptr});
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), Code::kInvalid);
    EXPECT_NE(report.status().message().find(out), std::string::npos);
  }
}

// A file may not grow any more: as with a full disk, whole lines stay, and the rest comes later.
TEST_F(Report, LinesThatFindNoRoomComeLater) {
  const auto report = RunReport::Open({folder_, 100, nullptr});
  ASSERT_TRUE(report.ok());
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int64_t step = 1; step <= 40; ++step) {
    report.value()->Step(Step(step, 1.0 / static_cast<double>(step)));
    const std::string text = ReadAll("metrics.jsonl");
    EXPECT_LE(text.size(), 1000u);
    EXPECT_TRUE(text.ends_with("}\n")) << "after step " << step;
  }
  const size_t some = ReadMetrics(folder_ + "/metrics.jsonl").size();
  EXPECT_GT(some, 5u);
  EXPECT_LT(some, 20u);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  report.value()->Step(Step(41, 0.5));
  const auto lines = ReadMetrics(folder_ + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 41u);
  EXPECT_EQ(lines[30].loss, 1.0 / 31);
  const std::string text = ReadAll("metrics.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 41) << "a half line is left";
}

TEST(StepClock, TimesWhatEndsWhileTheWorkerIsThere) {
  const StepClock::Time start{};
  const auto at = [&](double seconds) {
    return start + std::chrono::duration_cast<StepClock::Time::duration>(
                       std::chrono::duration<double>(seconds));
  };
  StepClock first;
  EXPECT_TRUE(std::isnan(first.Told(1, 1, 100, at(5))));
  EXPECT_TRUE(first.there()) << "its own first step, whose beginning nobody saw";
  EXPECT_DOUBLE_EQ(first.Told(2, 1, 100, at(7)), 50);
  EXPECT_DOUBLE_EQ(first.Told(3, 4, 100, at(8)), 400) << "together, so of each the same";

  StepClock later;
  EXPECT_TRUE(std::isnan(later.Told(1, 500, 100, at(5))));
  EXPECT_FALSE(later.there());
  EXPECT_DOUBLE_EQ(later.Told(501, 1, 100, at(6)), 100);
  EXPECT_TRUE(later.there());
  EXPECT_TRUE(std::isnan(later.Told(0, 0, 100, at(60)))) << "all known: told once more";
  EXPECT_FALSE(later.there());
  EXPECT_DOUBLE_EQ(later.Told(502, 1, 100, at(61)), 100);

  StepClock much_later;  // told in several answers
  EXPECT_TRUE(std::isnan(much_later.Told(1, 10'000, 100, at(5))));
  EXPECT_TRUE(std::isnan(much_later.Told(10'001, 300, 100, at(5.001))));
  EXPECT_FALSE(much_later.there());
  EXPECT_DOUBLE_EQ(much_later.Told(10'301, 1, 100, at(6.001)), 100);
}

TEST(Plot, HandlesEmptyFlatAndLongRuns) {
  EXPECT_TRUE(LossSvg({}).ends_with("</svg>\n"));
  LossPlot flat{"a < b", {{1, 2}, {2, 2}}, {}};
  EXPECT_NE(LossSvg(flat).find("a &lt; b"), std::string::npos);
  EXPECT_EQ(LossSvg(flat).find("nan"), std::string::npos);
  LossPlot lengthy;
  for (int i = 1; i <= 100000; ++i) {
    lengthy.train.push_back({static_cast<double>(i), 6 / std::sqrt(i) + 1});
  }
  EXPECT_LT(LossSvg(lengthy).size(), 100000u);
}

}  // namespace
}  // namespace mf
