#include "pserver/offline/inspect.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "common/run/run_description.h"
#include "common/run/tensor_spec.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

std::string Bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string Age(int64_t published_unix) {
  const int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  const int64_t seconds = now - std::clamp<int64_t>(published_unix, 0, now);
  if (seconds < 120) return std::to_string(seconds) + " s";
  if (seconds < 7200) return std::to_string(seconds / 60) + " min";
  if (seconds < 48 * 3600) return std::to_string(seconds / 3600) + " h";
  return std::to_string(seconds / 86400) + " d";
}

using Line = std::vector<std::string>;

/// Columns as wide as they have to be; numbers to the right.
void Print(const std::vector<Line>& lines, std::ostream& out) {
  std::vector<size_t> widths;
  for (const Line& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  for (const Line& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string pad(widths[i] - line[i].size(), ' ');
      if (i > 0) out << "  ";
      out << (i == 0 ? line[i] + pad : pad + line[i]);
    }
    out << "\n";
  }
}

struct Rows {
  uint64_t rows = 0;
  uint64_t bytes = 0;
};

Rows RowsOf(const SnapshotSummary& summary) {
  Rows rows;
  for (const SpaceCount& space : summary.spaces) {
    if (space.space >= kFirstWaitingSpace) continue;
    rows.rows += space.entries;
    rows.bytes += space.bytes;
  }
  return rows;
}

Status VerifyStep(SnapshotReader& reader, uint64_t step) {
  MF_RETURN_IF_ERROR(reader.VerifyFiles(step));
  const auto read =
      reader.Read(step, [](uint32_t, uint64_t, const std::byte*, size_t) { return Status::Ok(); });
  return read.status();
}

/// Keys that wait.
bool IsWaiting(uint32_t space) { return space >= kFirstWaitingSpace && space < kFirstStepSpace; }

std::string SpaceTitle(uint32_t space, const std::vector<TensorSpec>& tensors) {
  if (IsWaiting(space) && space - kFirstWaitingSpace < tensors.size()) {
    return tensors[space - kFirstWaitingSpace].name + ", keys that wait";
  }
  return space < tensors.size() ? tensors[space].name : SpaceName(space);
}

bool IsKeyed(uint32_t space, const std::vector<TensorSpec>& tensors) {
  if (IsWaiting(space)) return true;
  return space < tensors.size() && tensors[space].kind == TensorKind::kKeyed;
}

/// Rows and bytes by tensor of one step, over the shards that were found.
void PrintSpaces(uint64_t step, const std::vector<SnapshotSummary>& shards, std::ostream& out) {
  std::vector<TensorSpec> tensors;
  auto run = RunDescription::FromJson(shards[0].info.description);
  if (run.ok()) tensors = std::move(run->tensors);
  std::map<uint32_t, Rows> spaces;
  for (const SnapshotSummary& shard : shards) {
    for (const SpaceCount& space : shard.spaces) {
      Rows& sum = spaces[space.space];
      // Every shard has some columns of every row, or rows of its own.
      const bool own = IsKeyed(space.space, tensors);
      sum.rows = own ? sum.rows + space.entries : std::max(sum.rows, space.entries);
      sum.bytes += space.bytes;
    }
  }
  out << "\nstep " << step << ", " << shards.size() << " shards\n";
  if (!run.ok()) out << "tensors by their numbers: " << run.status().message() << "\n";
  std::vector<Line> lines = {{"tensor", "rows", "of", "bytes"}};
  for (const auto& [space, rows] : spaces) {
    lines.push_back({SpaceTitle(space, tensors), std::to_string(rows.rows),
                     space >= tensors.size()   ? ""
                     : IsKeyed(space, tensors) ? "2^64"
                                               : std::to_string(tensors[space].total_rows()),
                     Bytes(rows.bytes)});
  }
  Print(lines, out);
}

class Inspector {
 public:
  Inspector(bool verify, std::ostream& out) : verify_(verify), out_(out) {}

  Status Run(const std::string& dir) {
    const std::vector<RunFolder> runs = FindRuns(dir);
    if (runs.size() < 2) return RunOne(dir);
    for (const RunFolder& run : runs) {
      out_ << (&run == &runs[0] ? "" : "\n") << run.path << "\n";
      MF_RETURN_IF_ERROR(RunOne(run.path));
    }
    return first_bad_;
  }

 private:
  Status RunOne(const std::string& dir) {
    MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> folders, FindShardFolders(dir));
    if (FileExists(dir + "/" + kReshardFolder))
      out_ << "a reshard into this folder runs or was cut off (" << kReshardFolder << ")\n";
    std::map<uint32_t, std::vector<ShardFolder>> sets;
    for (const ShardFolder& folder : folders) sets[folder.shards].push_back(folder);
    for (const auto& [shards, set] : sets) MF_RETURN_IF_ERROR(InspectSet(shards, set));
    return first_bad_;
  }

  Status InspectSet(uint32_t shards, const std::vector<ShardFolder>& folders) {
    std::vector<std::unique_ptr<SnapshotReader>> readers;
    for (const ShardFolder& folder : folders) {
      MF_ASSIGN_OR_RETURN(std::unique_ptr<SnapshotReader> reader,
                          OpenRocksSnapshotReader(folder.path));
      readers.push_back(std::move(reader));
    }
    const std::vector<uint64_t> common = CommonSteps(readers);
    std::vector<Line> lines = {
        {"shard", "step", "applied", "rows", "bytes", "files", "age", "state"}};
    std::map<uint64_t, std::vector<SnapshotSummary>> steps;
    for (size_t i = 0; i < folders.size(); ++i) {
      const std::string shard =
          std::to_string(folders[i].shard) + "/" + std::to_string(folders[i].shards);
      const std::vector<uint64_t> published = readers[i]->Published();
      if (published.empty()) lines.push_back({shard, "none"});
      for (const uint64_t step : published) {
        const auto summary = readers[i]->Summary(step);
        Status status = summary.status();
        if (status.ok() && verify_) status = VerifyStep(*readers[i], step);
        if (!status.ok() && !FileExists(StepPath(folders[i].path, step)))
          continue;  // a server deleted it meanwhile
        if (!status.ok()) {
          if (first_bad_.ok()) first_bad_ = status;
          // kInvalid: whole, but of a version that is not read.
          lines.push_back({shard, std::to_string(step), "", "", "", "", "",
                           status.code() == Code::kInvalid ? "OTHER VERSION" : "DAMAGED"});
          continue;
        }
        const Rows rows = RowsOf(summary.value());
        lines.push_back({shard, std::to_string(step), std::to_string(summary.value().info.applied),
                         std::to_string(rows.rows), Bytes(rows.bytes),
                         Bytes(summary.value().file_bytes), Age(summary.value().published_unix),
                         verify_ ? "verified" : ""});
        steps[step].push_back(summary.value());
      }
    }
    Print(lines, out_);
    out_ << (folders.size() == shards ? "common to all " : "common to the ") << folders.size()
         << " of " << shards << " shards:";
    for (const uint64_t step : common) out_ << " " << step;
    out_ << (common.empty() ? " none\n" : "\n");
    if (!common.empty() && !steps[common.back()].empty())
      PrintSpaces(common.back(), steps[common.back()], out_);
    return Status::Ok();
  }

  const bool verify_;
  std::ostream& out_;
  Status first_bad_;
};

}  // namespace

Status Inspect(const std::string& dir, bool verify, std::ostream& out) {
  return Inspector(verify, out).Run(dir);
}

}  // namespace mf
