#include "tests/power/disk.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "common/base/files.h"

namespace mf {

namespace fs = std::filesystem;

namespace {

constexpr size_t kPage = 4096;

void Overwrite(std::string* bytes, uint64_t offset, std::string_view data) {
  if (bytes->size() < offset + data.size()) bytes->resize(offset + data.size());
  bytes->replace(offset, data.size(), data);
}

Status WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.close();
  return out ? Status::Ok() : Status::Failed(path + ": cannot write");
}

}  // namespace

Result<std::vector<Record>> ReadRecording(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<Record> records;
  for (RecordHead head; in.read(reinterpret_cast<char*>(&head), sizeof(head));) {
    Record record{static_cast<FileOp>(head.op), head.file, head.offset, "", ""};
    if (head.path_bytes > (1 << 16) || head.data_bytes > (uint64_t{1} << 32))
      return Status::Failed(path + ": not a recording");
    record.path.resize(head.path_bytes);
    record.data.resize(head.data_bytes);
    in.read(record.path.data(), static_cast<std::streamsize>(head.path_bytes));
    in.read(record.data.data(), static_cast<std::streamsize>(head.data_bytes));
    if (!in) return Status::Failed(path + ": cut off");
    if (record.op == FileOp::kUnknown) return Status::Failed(path + ": " + record.data);
    records.push_back(std::move(record));
  }
  if (records.empty() || records[0].op != FileOp::kRoot)
    return Status::Failed(path + ": not a recording");
  return records;
}

PowerDisk::Node* PowerDisk::Make(uint64_t file, bool folder) {
  nodes_.push_back(std::make_unique<Node>());
  nodes_.back()->folder = folder;
  nodes_.back()->number = nodes_.size();
  return by_file_[file] = nodes_.back().get();
}

PowerDisk::Node* PowerDisk::Find(const std::string& path) const {
  if (!path.starts_with(root_path_)) return nullptr;
  Node* node = nodes_.front().get();
  for (const fs::path& name : fs::path(path.substr(root_path_.size())).relative_path()) {
    const auto found = node->names.find(name.string());
    if (found == node->names.end()) return nullptr;
    node = found->second;
  }
  return node;
}

PowerDisk::Node* PowerDisk::FindFolder(const std::string& path, std::string* name) const {
  const size_t slash = path.rfind('/');
  *name = path.substr(slash + 1);
  Node* node = Find(path.substr(0, slash));
  return node != nullptr && node->folder ? node : nullptr;
}

Status PowerDisk::Advance(size_t position) {
  for (; position_ < position && position_ < records_.size(); ++position_) {
    const Record& record = records_[position_];
    if (const Status status = Apply(record); !status.ok()) {
      return Status::Failed("record " + std::to_string(position_) + " (" + record.path +
                            "): " + status.message());
    }
  }
  return Status::Ok();
}

Status PowerDisk::Apply(const Record& record) {
  const auto by_number = by_file_.find(record.file);
  Node* const file = by_number == by_file_.end() ? nullptr : by_number->second;
  std::string name;
  switch (record.op) {
    case FileOp::kRoot:  // of every process that is recorded
      if (nodes_.empty()) Make(record.file, true);
      root_path_ = record.path;
      return Status::Ok();
    case FileOp::kCreate:
    case FileOp::kMakeFolder:
    case FileOp::kLink: {
      const std::string& path = record.op == FileOp::kLink ? record.data : record.path;
      Node* const folder = FindFolder(path, &name);
      Node* const node = record.op == FileOp::kLink
                             ? Find(record.path)
                             : Make(record.file, record.op != FileOp::kCreate);
      if (folder == nullptr || node == nullptr) return Status::Failed("in no known folder");
      folder->names[name] = node;
      folder->name_changes.push_back({position_, "", name, node});
      return Status::Ok();
    }
    case FileOp::kRename:
      return Rename(record);
    case FileOp::kRemove: {
      Node* const folder = FindFolder(record.path, &name);
      if (folder == nullptr || folder->names.erase(name) == 0) return Status::Failed("unknown");
      folder->name_changes.push_back({position_, name, "", nullptr});
      return Status::Ok();
    }
    case FileOp::kWrite:
      if (file == nullptr) return Status::Failed("writes to an unknown file");
      Overwrite(&file->bytes, record.offset, record.data);
      file->changes.push_back({position_, false, record.offset, record.data});
      return Status::Ok();
    case FileOp::kResize:
      if (file == nullptr) return Status::Failed("resizes an unknown file");
      file->bytes.resize(record.offset);
      file->changes.push_back({position_, true, record.offset, ""});
      return Status::Ok();
    case FileOp::kSyncBegin:
      begun_[record.file] = position_;
      return Status::Ok();
    case FileOp::kSyncEnd:
      if (file != nullptr) Synced(file, begun_[record.file]);
      last_sync_ = std::max(last_sync_, begun_[record.file]);
      return Status::Ok();
    case FileOp::kSaid:
    case FileOp::kUnknown:
      return Status::Ok();
  }
  return Status::Failed("not a record");
}

Status PowerDisk::Rename(const Record& record) {
  std::string old_name, new_name;
  Node* const from = FindFolder(record.path, &old_name);
  Node* const to = FindFolder(record.data, &new_name);
  Node* const node = Find(record.path);
  if (from == nullptr || to == nullptr || node == nullptr) return Status::Failed("unknown");
  from->names.erase(old_name);
  to->names[new_name] = node;
  if (from == to) {
    from->name_changes.push_back({position_, old_name, new_name, node});
  } else {
    from->name_changes.push_back({position_, old_name, "", nullptr});
    to->name_changes.push_back({position_, "", new_name, node});
  }
  return Status::Ok();
}

void PowerDisk::Synced(Node* node, size_t begin) {
  const auto is_later = [&](const auto& change) { return change.at >= begin; };
  ++node->syncs;
  const auto first = std::find_if(node->changes.begin(), node->changes.end(), is_later);
  for (auto change = node->changes.begin(); change != first; ++change) {
    if (change->resize) {
      node->synced_bytes.resize(change->offset);
    } else {
      Overwrite(&node->synced_bytes, change->offset, change->data);
    }
  }
  node->changes.erase(node->changes.begin(), first);
  const auto later = std::find_if(node->name_changes.begin(), node->name_changes.end(), is_later);
  for (auto change = node->name_changes.begin(); change != later; ++change) {
    node->synced_names.erase(change->gone);
    if (change->node != nullptr) node->synced_names[change->come] = change->node;
  }
  node->name_changes.erase(node->name_changes.begin(), later);
}

std::vector<std::string> PowerDisk::Machines() const {
  std::vector<std::string> names;
  for (const auto& [name, node] : nodes_.front()->names)
    if (node->folder) names.push_back(name);
  return names;
}

Result<std::string> PowerDisk::Bytes(const std::string& path) const {
  const Node* node = Find(root_path_ + path);
  if (node == nullptr || node->folder) return Status::Failed(path + ": no such file");
  return node->bytes;
}

Status PowerDisk::Compare() const { return Compare(*nodes_.front(), root_path_); }

Status PowerDisk::Compare(const Node& node, const std::string& path) const {
  if (!node.folder) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    if (in && bytes == node.bytes) return Status::Ok();
    return Status::Failed(path + ": holds what was not recorded");
  }
  std::vector<std::string> names;
  for (const auto& [name, child] : node.names) {
    names.push_back(name);
    MF_RETURN_IF_ERROR(Compare(*child, path + "/" + name));
  }
  if (names == FileNames(path)) return Status::Ok();
  return Status::Failed(path + ": has names that were not recorded, or lacks some that were");
}

/// What survives of one cut.
class PowerDisk::Draw {
 public:
  Draw(const PowerDisk& disk, std::mt19937_64* random, std::string cache)
      : random_(*random), cache_(std::move(cache)) {
    constexpr const char* kNames[] = {"names in order", "names of each folder in order",
                                      "any names"};
    constexpr const char* kData[] = {"no data", "all data", "some pages", "sizes without data"};
    order_ = static_cast<Order>(Below(3));
    data_ = static_cast<Data>(Below(5));
    constexpr double kShares[] = {0, 1, 0.5, 0.9};
    share_ = kShares[Below(4)];
    moment_ = disk.last_sync_ + Below(disk.position_ - disk.last_sync_ + 1);
    now_ = disk.position_;
    words_ = std::string(kNames[static_cast<size_t>(order_)]) + ", " +
             (data_ == Data::kMixed ? "data as it comes" : kData[static_cast<size_t>(data_)]);
  }

  Fate fate() const { return {words_, lost_}; }

  /// `spared`: nothing below is lost.
  Status Write(const Node& node, const std::string& path, bool spared) {
    if (!node.folder) return WriteData(node, path, spared);
    MF_RETURN_IF_ERROR(MakeFolder(path));
    for (const auto& [name, child] : spared ? node.names : Names(node))
      MF_RETURN_IF_ERROR(Write(*child, path + "/" + name, spared));
    return Status::Ok();
  }

  Status WriteRoot(const Node& root, const std::string& path,
                   const std::vector<std::string>& spared) {
    MF_RETURN_IF_ERROR(MakeFolder(path));
    std::map<std::string, Node*> names = Names(root);
    for (const std::string& name : spared) names[name] = root.names.at(name);
    for (const auto& [name, child] : names) {
      const bool keeps = std::find(spared.begin(), spared.end(), name) != spared.end();
      MF_RETURN_IF_ERROR(Write(*child, path + "/" + name, keeps));
    }
    return Status::Ok();
  }

 private:
  enum class Order { kJournal, kFolder, kAny };
  enum class Data { kNone, kAll, kPages, kSizes, kMixed };

  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : random_() % bound; }
  bool Happens(double share) { return std::uniform_real_distribution<double>()(random_) < share; }

  std::map<std::string, Node*> Names(const Node& node) {
    std::map<std::string, Node*> names = node.synced_names;
    const size_t moment = order_ == Order::kFolder ? Below(now_ + 1) : moment_;
    for (const NameChange& change : node.name_changes) {
      bool survives = change.at < moment;
      if (order_ == Order::kAny) {
        // Both halves of a rename between two folders share their fate.
        const auto [drawn, is_new] = drawn_.try_emplace(change.at, false);
        if (is_new) drawn->second = Happens(share_);
        survives = drawn->second;
      }
      lost_ += !survives;
      if (!survives) continue;
      names.erase(change.gone);
      if (change.node != nullptr) names[change.come] = change.node;
    }
    return names;
  }

  Status WriteData(const Node& node, const std::string& path, bool spared) {
    // One file has one fate under all its names.
    const auto written = written_.find(&node);
    std::string source;
    if (written != written_.end()) {
      source = written->second;
    } else if (node.changes.empty()) {
      source = cache_ + "/" + std::to_string(node.number) + "-" + std::to_string(node.syncs);
      if (!FileExists(source)) MF_RETURN_IF_ERROR(WriteFile(source, node.synced_bytes));
    } else {
      written_[&node] = path;
      const std::string bytes = spared ? node.bytes : Survivor(node);
      lost_ += bytes != node.bytes;
      return WriteFile(path, bytes);
    }
    written_[&node] = source;
    if (link(source.c_str(), path.c_str()) != 0) return FileError(source, "link to " + path);
    return Status::Ok();
  }

  std::string Survivor(const Node& node) {
    const Data data = data_ == Data::kMixed ? static_cast<Data>(Below(4)) : data_;
    if (data == Data::kNone) return node.synced_bytes;
    if (data == Data::kAll) return node.bytes;
    std::string bytes = node.synced_bytes;
    for (const Change& change : node.changes) {
      if (data == Data::kSizes) {
        bytes.resize(change.resize ? change.offset
                                   : std::max(bytes.size(), change.offset + change.data.size()));
      } else if (change.resize) {
        if (Happens(share_)) bytes.resize(change.offset);
      } else {
        AddPages(change, &bytes);
      }
    }
    // What was there before where nothing of this file has arrived.
    if (data == Data::kSizes && Happens(0.5)) {
      for (size_t i = node.synced_bytes.size(); i < bytes.size(); ++i)
        bytes[i] = static_cast<char>(random_());
    }
    return bytes;
  }

  void AddPages(const Change& change, std::string* bytes) {
    for (size_t done = 0; done < change.data.size();) {
      const size_t page_end = (change.offset + done) / kPage * kPage + kPage;
      const size_t size = std::min(change.data.size() - done, page_end - change.offset - done);
      if (Happens(share_))
        Overwrite(bytes, change.offset + done, std::string_view(change.data).substr(done, size));
      done += size;
    }
  }

  std::mt19937_64& random_;
  const std::string cache_;
  Order order_;
  Data data_;
  double share_;
  size_t moment_, now_;
  std::string words_;
  size_t lost_ = 0;
  std::map<size_t, bool> drawn_;
  std::map<const Node*, std::string> written_;
};

Status PowerDisk::Cut(std::mt19937_64* random, const std::string& folder, const std::string& cache,
                      const std::vector<std::string>& spared, Fate* fate) {
  Draw draw(*this, random, cache);
  const Status written = draw.WriteRoot(*nodes_.front(), folder, spared);
  *fate = draw.fate();
  return written;
}

}  // namespace mf
