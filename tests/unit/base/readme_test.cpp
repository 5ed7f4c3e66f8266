// The README's table of options is the one that the code prints.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "common/config/config.h"

namespace mf {
namespace {

TEST(ReadmeTest, OptionsTableIsTheCodes) {
  std::ifstream file(MF_SOURCE_DIR "/README.md");
  ASSERT_TRUE(file) << "README.md is not beside the sources";
  std::stringstream text;
  text << file.rdbuf();
  const std::string readme = text.str();
  const std::string begin = "<!-- options:begin -->\n", end = "<!-- options:end -->";
  const size_t from = readme.find(begin), to = readme.find(end);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  EXPECT_EQ(readme.substr(from + begin.size(), to - from - begin.size()), ConfigTableMarkdown())
      << "replace what stands between the markers by the output of `worker options`";
}

}  // namespace
}  // namespace mf
