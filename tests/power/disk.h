// What a disk may hold after the power went: a recording (record.h) is replayed up to a cut, and of
// everything that was not synced by then a part survives, drawn at random.
//
// What is promised is POSIX's and no more. A sync of a file makes durable what was written to it
// before the sync began, under whatever name it has or had. A sync of a folder makes its names
// durable, not what they name, nor the folder's own name in the folder above. All else may survive
// or not, in any combination: names without what was written (delayed allocation), later changes
// without earlier ones, pages of one write without the others, sizes without pages. A rename within
// a folder is one change; one between folders is two as soon as one of them is synced. A third of
// the draws is as file systems with a journal do it: names survive in order, up to a moment that is
// not before the last sync of anything.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "tests/power/record.h"

namespace mf {

struct Record {
  FileOp op = FileOp::kUnknown;
  uint64_t file = 0, offset = 0;
  std::string path, data;
};

/// All records in their order; kFailed if the file is not a recording, or if something took place
/// that is not recorded.
Result<std::vector<Record>> ReadRecording(const std::string& path);

/// How a cut was drawn.
struct Fate {
  std::string words;
  size_t lost = 0;  // changes that a process had seen, and that are gone
};

class PowerDisk {
 public:
  explicit PowerDisk(const std::vector<Record>& records) : records_(records) {}

  /// Records that took place so far.
  size_t position() const { return position_; }
  /// Lets records take place until `position` have; it never goes back.
  Status Advance(size_t position);

  /// Writes to `folder`, which is empty, what is left if the power goes now. Files that are as they
  /// were synced are links to files in `cache`, a folder of this object's: nobody may write to
  /// them. `spared`: of the folders of machines, which the root holds, those that keep their power.
  Status Cut(std::mt19937_64* random, const std::string& folder, const std::string& cache,
             const std::vector<std::string>& spared, Fate* fate);
  /// Folders in the root, as a process sees them.
  std::vector<std::string> Machines() const;
  /// What a process sees in a file, named by its path below the root.
  Result<std::string> Bytes(const std::string& path) const;
  /// Ok if the recorded folder holds now what the records say: none is missing.
  Status Compare() const;

 private:
  struct Node;
  /// Of a file: bytes, or a new size.
  struct Change {
    size_t at;
    bool resize;
    uint64_t offset;
    std::string data;
  };
  /// Of a folder: a name goes, a name comes, or both at once.
  struct NameChange {
    size_t at;
    std::string gone, come;
    Node* node;
  };
  struct Node {
    bool folder = false;
    // As a process sees it now, and as it is durable; between them what was not synced.
    std::string bytes, synced_bytes;
    std::map<std::string, Node*> names, synced_names;
    std::vector<Change> changes;
    std::vector<NameChange> name_changes;
    uint64_t syncs = 0, number = 0;
  };
  class Draw;

  Status Apply(const Record& record);
  Status Rename(const Record& record);
  Node* Make(uint64_t file, bool folder);
  Node* Find(const std::string& path) const;
  /// The folder that the path stands in, and the path's own name.
  Node* FindFolder(const std::string& path, std::string* name) const;
  void Synced(Node* node, size_t begin);
  Status Compare(const Node& node, const std::string& path) const;

  const std::vector<Record>& records_;
  size_t position_ = 0;
  std::string root_path_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<uint64_t, Node*> by_file_;  // who has this inode number now
  std::map<uint64_t, size_t> begun_;   // the newest begun sync of a file
  size_t last_sync_ = 0;               // began so late
};

}  // namespace mf
