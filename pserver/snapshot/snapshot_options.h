// How the tables of snapshots are made, and RocksDB's errors as ours.
#pragma once

#include <string>

#include "common/base/status.h"

namespace rocksdb {
struct Options;
class Status;
}  // namespace rocksdb

namespace mf {

/// For the live database and for the tables of increments.
rocksdb::Options LiveOptions();
/// For databases that are only read.
rocksdb::Options ReaderOptions();

/// "PATH: cannot WHAT: ...; ADVICE" on one line.
Status RocksError(const std::string& path, const std::string& what, const rocksdb::Status& status);

}  // namespace mf
