#include "common/client/snapshot_plan.h"

#include <algorithm>
#include <set>

namespace mf {
namespace {

bool Has(const SnapshotState& server, uint64_t step) {
  return std::binary_search(server.published.begin(), server.published.end(), step);
}

}  // namespace

std::vector<uint64_t> CommonSteps(const std::vector<SnapshotState>& servers) {
  std::vector<uint64_t> common;
  for (const uint64_t step : servers[0].published) {
    if (std::all_of(servers.begin(), servers.end(),
                    [step](const SnapshotState& server) { return Has(server, step); })) {
      common.push_back(step);
    }
  }
  return common;
}

uint64_t NewestCommonStep(const std::vector<SnapshotState>& servers) {
  const std::vector<uint64_t> common = CommonSteps(servers);
  return common.empty() ? 0 : common.back();
}

SnapshotPlan PlanSnapshots(const std::vector<SnapshotState>& servers, SnapshotDue due,
                           uint64_t keep) {
  SnapshotPlan plan;
  const bool idle = std::all_of(servers.begin(), servers.end(),
                                [](const SnapshotState& s) { return s.writing == 0; });
  plan.take = due == SnapshotDue::kNow || (due == SnapshotDue::kWhenIdle && idle);
  const std::vector<uint64_t> common = CommonSteps(servers);
  plan.common = common.empty() ? 0 : common.back();
  uint64_t keep_from = 0;
  if (!common.empty()) {
    keep_from =
        common[common.size() - std::min<size_t>(common.size(), std::max<uint64_t>(1, keep))];
  }
  std::set<uint64_t> published;
  for (const SnapshotState& server : servers) {
    published.insert(server.published.begin(), server.published.end());
  }
  for (const uint64_t step : published) {
    const bool never_common =
        std::any_of(servers.begin(), servers.end(), [step](const SnapshotState& server) {
          return !Has(server, step) && server.writing != step;
        });
    if (step < keep_from || never_common) plan.discard.push_back(step);
  }
  return plan;
}

RecoveryPlan PlanRecovery(const std::vector<ServerState>& servers, uint64_t epoch) {
  RecoveryPlan plan;
  std::vector<SnapshotState> snapshots;
  uint64_t had = 0;
  for (const ServerState& server : servers) {
    plan.epoch_seen = std::max(plan.epoch_seen, server.finished.epoch);
    had = std::max(had, server.had_common);
    snapshots.push_back(server.snapshots);
  }
  plan.step = NewestCommonStep(snapshots);
  if (plan.epoch_seen >= epoch) {
    plan.action = RecoveryPlan::Action::kHigherEpoch;
  } else if (plan.step == 0 && had > 0) {
    // A wrong or an old folder, or damage: going back to step 0 would delete what the others have.
    plan.action = RecoveryPlan::Action::kRefuse;
    std::string who;
    for (size_t i = 0; i < servers.size(); ++i) {
      const auto& published = servers[i].snapshots.published;
      who += (i == 0 ? "server " : ", server ") + std::to_string(i) + " has " +
             (published.empty() ? "none" : "up to step " + std::to_string(published.back()));
    }
    plan.message = "the servers had step " + std::to_string(had) +
                   " in common and have none any more: " + who +
                   "; bring the right --data folders back (damaged snapshots stay there as "
                   "damaged-step-*), or empty those of all servers to begin anew";
  }
  return plan;
}

uint64_t StepToSave(const std::vector<ServerState>& servers) {
  std::set<uint64_t> published;
  std::vector<SnapshotState> snapshots;
  for (const ServerState& server : servers) {
    published.insert(server.snapshots.published.begin(), server.snapshots.published.end());
    snapshots.push_back(server.snapshots);
  }
  const uint64_t common = NewestCommonStep(snapshots);
  for (auto step = published.rbegin(); step != published.rend() && *step > common; ++step) {
    if (std::all_of(servers.begin(), servers.end(), [step](const ServerState& server) {
          return Has(server.snapshots, *step) || server.snapshots.writing == *step ||
                 (server.finished.epoch != 0 && server.finished.step == *step);
        })) {
      return *step;
    }
  }
  return 0;
}

}  // namespace mf
