// What a Server lets decide: requests in, replies out. Single-threaded, as a Shard is.
#pragma once

#include <string>

#include "common/net/messages.h"

namespace mf {

class Host {
 public:
  virtual ~Host() = default;

  virtual void Handle(const std::string& peer, const Request& request, double now) = 0;
  /// From inside something that takes long (ThreadPool::SetYield), for requests that
  /// Shard::AnswersAtOnce().
  virtual void HandleMeanwhile(const std::string& peer, const Request& request, double now) = 0;
  virtual void Tick(double now) = 0;

  // A host that saves nothing has no more to say.

  /// The server is to end: what is here is saved, and nothing new begins.
  virtual void End(double now) = 0;
  virtual bool ending() const = 0;
  virtual bool ReadyToEnd(double) { return true; }
  /// After ReadyToEnd(): the last finished step could not be saved.
  virtual bool unsaved() const { return false; }
  /// For how long the disk of what is served has not answered, or is late with a snapshot; 0: it is
  /// well.
  virtual double disk_busy_seconds() const { return 0; }
  /// What GET /health is to say; empty: all is well.
  virtual std::string trouble() const { return {}; }
  /// A worker of an unfinished run has been heard of late.
  virtual bool HasWorkers(double) const { return false; }
  /// Goes on with a snapshot that is being written. True if there is more to do at once.
  virtual bool Work(double) { return false; }
  virtual bool writing_snapshot() const { return false; }
};

}  // namespace mf
