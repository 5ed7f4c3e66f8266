// The folder of --out: who writes there, and of which run it is.
#pragma once

#include <string>

#include "common/base/file_lock.h"
#include "common/base/status.h"

namespace mf {

/// The path as a process that runs in another folder has to name it.
std::string AbsolutePath(const std::string& path);

/// Keeps other processes off the folder, which is there: two with one --out would each write what
/// the other has written. `who`: "worker". kInvalid if another one is at it.
Result<FileLock> LockOutputFolder(const std::string& out, const std::string& who);

/// The id of the run that an earlier start left there; empty: none.
std::string RunInOutputFolder(const std::string& out);
/// Once the servers have agreed to the run: what an earlier start left there is gone on with if it
/// is of the same run, and makes place if it is not.
Status AdoptOutputFolder(const std::string& out, const std::string& run_id);

}  // namespace mf
