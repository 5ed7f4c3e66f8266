// The snapshots that all servers of a run have of one step, read as one: entries in rising order,
// rows with all their columns. Whoever disagrees with the others is named.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/file_lock.h"
#include "common/base/status.h"
#include "common/run/run_description.h"
#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/table/layout.h"
#include "pserver/table/row_format.h"

namespace mf {

class MergedSnapshot {
 public:
  struct Options {
    std::string from;       // a --data folder with one run, or a run's folder
    std::string flag;       // by which it was given, for messages: "--from"
    uint64_t step = 0;      // 0: the newest that all servers have
    bool keep_off = false;  // no server may start on it meanwhile
  };
  /// kInvalid for a folder that has no such step of all servers; kFailed if they are not of one
  /// run, or a server holds what is to be kept off.
  static Result<std::unique_ptr<MergedSnapshot>> Open(const Options& options);
  struct Published {
    uint64_t step = 0;
    int64_t unix_seconds = 0;  // by when all servers had it; 0: unreadable
    std::string run_id = {};   // empty: unreadable
  };
  /// What all servers have in Options::from, rising; never none. kInvalid or kFailed then.
  static Result<std::vector<Published>> List(const Options& options);

  const RunDescription& run() const { return run_; }
  uint64_t step() const { return step_; }
  uint32_t shards() const { return static_cast<uint32_t>(sources_.size()); }
  /// Of server 0.
  const SnapshotInfo& info() const { return sources_[0].info; }
  /// Of data(), where that is a row of the tensor.
  const RowFormat& format(uint32_t tensor) const { return formats_[tensor]; }
  /// How many rows of tensors there are.
  uint64_t rows() const { return rows_; }

  /// Goes to the next entry, at first to the first one. False at the end.
  Result<bool> Next();
  // Of the entry; valid until Next().
  const SnapshotKey& key() const { return key_; }
  bool is_row() const;
  /// The tensor whose row it is, or whose key that waits for one; none: a step's.
  std::optional<uint32_t> tensor() const;
  /// A row with all columns in the form of pserver/table/row_format.h, or another entry as it is.
  const std::byte* data() const { return entry_.data(); }
  size_t bytes() const { return entry_.size(); }

 private:
  struct Source {
    std::string path;  // step-<n>
    FileLock lock;     // keeps servers away
    SnapshotInfo info;
    std::unique_ptr<SnapshotCursor> cursor;
    std::vector<TensorLayout> layouts;
    std::vector<RowFormat> formats;  // of its part of a row, by tensor

    bool At(const SnapshotKey& key) const {
      return cursor->Valid() && cursor->space() == key.space && cursor->id() == key.id;
    }
    /// Whether a row of a tensor has a part here.
    bool Has(uint32_t tensor, uint64_t row) const { return layouts[tensor].Has(row); }
  };

  MergedSnapshot() = default;
  Status OpenSources(const Options& options);
  /// What is no row; `first` stands at it.
  Status TakeOther(const Source& first);
  /// Of `source`, which stands at it.
  Status CheckKey(const Source& source) const;
  /// `first`: a source that has a part of it.
  Status TakeRow(const Source& first);
  static Status Disagree(const Source& a, const Source& b, const std::string& what);

  RunDescription run_;
  std::vector<RowFormat> formats_;  // of rows with all columns, by tensor
  uint64_t step_ = 0, rows_ = 0;
  std::vector<Source> sources_;
  bool begun_ = false;
  SnapshotKey key_ = {};
  std::vector<std::byte> entry_;
};

}  // namespace mf
