#include "common/client/membership.h"

#include <utility>

namespace mf {

Membership::Membership(std::string description, size_t servers)
    : description_(std::move(description)), servers_(servers) {}

std::vector<Request> Membership::Hellos() const {
  std::vector<Request> hellos(servers_);
  for (size_t server = 0; server < servers_; ++server) {
    hellos[server].body = HelloRequest{.shard = static_cast<uint32_t>(server),
                                       .shards = static_cast<uint32_t>(servers_),
                                       .description = description_};
  }
  return hellos;
}

bool Membership::Joined(const std::vector<Reply>& replies) {
  const bool other_coordinator =
      !incarnations_.empty() && incarnations_[0] != replies[0].incarnation;
  if (other_coordinator) records_epoch_ = records_step_ = 0;
  incarnations_.clear();
  for (const Reply& reply : replies) incarnations_.push_back(reply.incarnation);
  return other_coordinator;
}

LeaseRequest Membership::Ask() const {
  return {
      .known_epoch = records_epoch_, .known_step = records_step_, .incarnations = incarnations_};
}

std::vector<StepRecord> Membership::TakeRecords(const LeaseReply& lease) {
  std::vector<StepRecord> news;
  // An answer from before a recovery that was under way for long: what it tells is told again.
  if (lease.epoch < records_epoch_) return news;
  if (lease.epoch > records_epoch_) {
    records_epoch_ = lease.epoch;
    records_step_ = 0;
  }
  for (const StepRecord& record : lease.records) {
    if (record.step <= records_step_) continue;  // another lane was told, too
    records_step_ = record.step;
    news.push_back(record);
  }
  return news;
}

}  // namespace mf
