// The table of options in docs/OPTIONS.md is the one that the code prints.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "worker/config/config.h"

namespace mf {
namespace {

TEST(OptionsPageTest, TableIsTheCodes) {
  std::ifstream file(MF_SOURCE_DIR "/docs/OPTIONS.md");
  ASSERT_TRUE(file) << "docs/OPTIONS.md is missing";
  std::stringstream text;
  text << file.rdbuf();
  const std::string page = text.str();
  const std::string begin = "<!-- options:begin -->\n", end = "<!-- options:end -->";
  const size_t from = page.find(begin), to = page.find(end);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  EXPECT_EQ(page.substr(from + begin.size(), to - from - begin.size()), ConfigTableMarkdown())
      << "replace what stands between the markers by the output of `worker options`";
}

}  // namespace
}  // namespace mf
