// Goal: metrics.jsonl reads back exactly, survives kills and rollbacks, and the plot is
// well-formed.
#include "worker/train/report.h"

#include <gtest/gtest.h>

#include <cmath>
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
    ASSERT_TRUE(report.value()->Step(line).ok());
    EXPECT_EQ(ReadMetrics(folder_ + "/deep/er/metrics.jsonl").size(), static_cast<size_t>(step));
  }
  const auto lines = ReadMetrics(folder_ + "/deep/er/metrics.jsonl");
  EXPECT_EQ(lines[2].loss, 1.0 / 3);
  EXPECT_EQ(lines[2].tokens, 300);
  EXPECT_FALSE(lines[2].val_loss.has_value());
  EXPECT_EQ(lines[3].val_loss, 0.7);
  ASSERT_TRUE(report.value()->Finish().ok());
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
  ASSERT_TRUE(report.value()->Step(Step(2, 3)).ok());
  const auto lines = ReadMetrics(folder_ + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].loss, 5);
  EXPECT_EQ(lines[1].loss, 3);
}

TEST_F(Report, ProgressIsPlainLinesInAFile) {
  std::FILE* progress = std::tmpfile();
  const auto report = RunReport::Open({folder_, 2, progress});
  ASSERT_TRUE(report.value()->Step(Step(1, 2)).ok());
  ASSERT_TRUE(report.value()->Step(Step(2, 1)).ok());
  char text[400] = {};
  std::rewind(progress);
  const size_t size = std::fread(text, 1, sizeof(text) - 1, progress);
  EXPECT_EQ(std::string(text, size),
            "step 1/2  loss 2.0000  1,235 tokens/s  0s left\n"
            "step 2/2  loss 1.0000  1,235 tokens/s\n");
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
