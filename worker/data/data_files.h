// Which files --data or --val means, so that nothing is left out in silence and nothing is read
// that the run itself has written.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// A place that the run writes: never data.
struct OwnPlace {
  std::string flag;  // as the user knows it: "--out"
  std::string path;  // may not be there yet
};

struct DataFiles {
  bool folder = false;             // or a pattern: there may be more than one
  std::vector<std::string> paths;  // sorted
};

/// `path` is a file; a folder, read with all folders in it, through links, too, names beginning
/// with a dot left out (a link back to a folder that is being read ends there); or DIR/PATTERN with
/// `*`,
/// `?` or `[]` in its last part, which files of DIR match. kInvalid, naming it, for what is missing
/// or may not be read, a dangling link, what is no file in a folder, and for anything that this or
/// another run has written.
Result<DataFiles> FindDataFiles(const std::string& path, const std::vector<OwnPlace>& own);

/// The files of several such paths, one after the other.
Result<std::vector<std::string>> FindAllDataFiles(const std::vector<std::string>& all,
                                                  const std::vector<OwnPlace>& own);

}  // namespace mf
