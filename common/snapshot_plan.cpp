#include "common/snapshot_plan.h"

#include <algorithm>
#include <set>

namespace mf {
namespace {

bool Has(const SnapshotState& server, uint64_t step) {
  return std::binary_search(server.published.begin(), server.published.end(), step);
}

/// Steps that every server has, rising.
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

}  // namespace

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
  uint64_t newest = 0;
  size_t fresh = servers.size();
  for (size_t i = 0; i < servers.size(); ++i) {
    const SnapshotState& own = servers[i].snapshots;
    plan.epoch_seen = std::max(plan.epoch_seen, servers[i].epoch);
    snapshots.push_back(own);
    if (!own.published.empty()) newest = std::max(newest, own.published.back());
    if (servers[i].fresh && own.published.empty()) fresh = std::min(fresh, i);
  }
  plan.step = NewestCommonStep(snapshots);
  if (plan.epoch_seen >= epoch) {
    plan.action = RecoveryPlan::Action::kHigherEpoch;
  } else if (plan.step == 0 && newest > 0 && fresh < servers.size()) {
    // Going back to step 0 would delete what the others have.
    plan.action = RecoveryPlan::Action::kRefuse;
    plan.message = "server " + std::to_string(fresh) +
                   " stands on an empty --data folder, while others hold snapshots up to step " +
                   std::to_string(newest) +
                   " of this run; start it on its own folder, or all servers on empty ones";
  }
  return plan;
}

}  // namespace mf
