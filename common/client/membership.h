// What a worker knows of its run: which processes the servers are, and which steps' records it has
// been told of. No socket, thread or clock inside; whoever drives it from several threads locks it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/net/messages.h"

namespace mf {

class Membership {
 public:
  /// `description`: RunDescription::Json() of the run.
  Membership(std::string description, size_t servers);

  /// By server.
  std::vector<Request> Hellos() const;
  /// Takes in every server's answer to hello. True if server 0 was another process before: its
  /// epochs may begin anew, so what was remembered by epoch is void.
  bool Joined(const std::vector<Reply>& replies);

  /// A request to the coordinator for work.
  LeaseRequest Ask() const;
  /// The records of a lease request's answer that are news, rising. After a rollback steps come
  /// again, and are then the ones that count.
  std::vector<StepRecord> TakeRecords(const LeaseReply& lease);

 private:
  const std::string description_;
  const size_t servers_;
  std::vector<uint64_t> incarnations_;             // of the servers; empty: not joined yet
  uint64_t records_epoch_ = 0, records_step_ = 0;  // the newest record known
};

}  // namespace mf
