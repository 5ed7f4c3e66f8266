#include "tests/fuzz/support/scratch_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "common/base/check.h"

namespace mf::fuzz {
namespace {

struct Folder {
  Folder() {
    path = (std::filesystem::temp_directory_path() / "mf-fuzz-XXXXXX").string();
    MF_CHECK(mkdtemp(path.data()) != nullptr);
  }
  ~Folder() {
    std::error_code error;
    std::filesystem::remove_all(path, error);
  }
  std::string path;
};

}  // namespace

const std::string& ScratchFolder() {
  static const Folder folder;
  return folder.path;
}

std::string ScratchFile(const std::string& name, std::string_view text) {
  const std::string path = ScratchFolder() + "/" + name;
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  MF_CHECK(file >= 0);
  MF_CHECK(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(file);
  return path;
}

}  // namespace mf::fuzz
