#include "common/run/versions.h"

namespace mf {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

std::string Known(const Format& format) {
  const std::string newest = std::to_string(format.newest);
  if (format.oldest == format.newest) return newest;
  return std::to_string(format.oldest) + " to " + newest;
}

}  // namespace

std::string ProgramVersion::Text() const {
  return version + (commit.empty() ? "" : ", commit " + commit) + ", " + compiler;
}

const ProgramVersion& ThisProgram() {
  static const ProgramVersion version{MF_VERSION, MF_COMMIT, kCompiler};
  return version;
}

Status CheckVersion(const Format& format, uint64_t version, const std::string& where) {
  if (version >= format.oldest && version <= format.newest) return Status::Ok();
  const std::string what = (where.empty() ? "" : where + ": ") + format.name + " " +
                           std::to_string(version) + ": written by ";
  const std::string reads = " (it reads " + Known(format) + ")";
  if (version > format.newest) {
    return Status::Invalid(what + "a newer version, update " + format.reader + reads);
  }
  return Status::Invalid(what + "an older version, which " + format.reader + " does not read" +
                         reads + "; " + format.if_older);
}

}  // namespace mf
