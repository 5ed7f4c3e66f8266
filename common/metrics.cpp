#include "common/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace mf {
namespace {

const char* Name(Direction direction) {
  return direction == Direction::kSent ? "sent" : "received";
}

/// 100 us to 100 s, three to a decade: from a small inproc request to a deadline.
prometheus::Histogram::BucketBoundaries RequestBuckets() {
  return {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1,
          0.2,  0.5,  1,    2,    5,    10,   20,   50,   100};
}

}  // namespace

struct Metrics::State {
  // Shared with the exposer, which scrapes it from its own threads.
  std::shared_ptr<prometheus::Registry> shared = std::make_shared<prometheus::Registry>();
  prometheus::Registry& registry = *shared;
  std::unique_ptr<prometheus::Exposer> exposer;
  prometheus::Gauge& step = prometheus::BuildGauge()
                                .Name("mf_step")
                                .Help("Last finished step")
                                .Register(registry)
                                .Add({});
  prometheus::Gauge& loss = prometheus::BuildGauge()
                                .Name("mf_train_loss")
                                .Help("Mean loss of the last step, nats per token")
                                .Register(registry)
                                .Add({});
  prometheus::Counter& tokens = prometheus::BuildCounter()
                                    .Name("mf_train_tokens_total")
                                    .Help("Tokens of finished steps")
                                    .Register(registry)
                                    .Add({});
  prometheus::Family<prometheus::Counter>& wire_bytes =
      prometheus::BuildCounter()
          .Name("mf_wire_bytes_total")
          .Help("Bytes of message frames, by operation and direction")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& rejected =
      prometheus::BuildCounter()
          .Name("mf_requests_rejected_total")
          .Help("Requests answered with an error, by reason")
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& request_seconds =
      prometheus::BuildHistogram()
          .Name("mf_request_seconds")
          .Help("Time from a request to its reply, by operation")
          .Register(registry);
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

void Metrics::AddWireBytes(const std::string& op, Direction direction, uint64_t bytes) {
  state_->wire_bytes.Add({{"op", op}, {"direction", Name(direction)}})
      .Increment(static_cast<double>(bytes));
}

void Metrics::AddRejected(const std::string& reason) {
  state_->rejected.Add({{"reason", reason}}).Increment();
}

void Metrics::ObserveRequest(const std::string& op, double seconds) {
  state_->request_seconds.Add({{"op", op}}, RequestBuckets()).Observe(seconds);
}

void Metrics::StepEnded(uint64_t step, double loss, uint64_t tokens) {
  state_->step.Set(static_cast<double>(step));
  state_->loss.Set(loss);
  state_->tokens.Increment(static_cast<double>(tokens));
}

Status Metrics::Serve(const std::string& address) {
  try {
    constexpr size_t kThreads = 1;
    state_->exposer = std::make_unique<prometheus::Exposer>(address, kThreads);
  } catch (const std::exception& e) {
    return Status::Invalid("cannot serve metrics on " + address + ": " + e.what() +
                           "; give --metrics a free host:port");
  }
  state_->exposer->RegisterCollectable(state_->shared);
  return Status::Ok();
}

int Metrics::port() const {
  return state_->exposer == nullptr ? 0 : state_->exposer->GetListeningPorts().at(0);
}

uint64_t Metrics::WireBytes(const std::string& op, Direction direction) const {
  // Add() returns the existing series; a read may create an empty one, which reads as 0.
  return static_cast<uint64_t>(
      state_->wire_bytes.Add({{"op", op}, {"direction", Name(direction)}}).Value());
}

uint64_t Metrics::Rejected(const std::string& reason) const {
  return static_cast<uint64_t>(state_->rejected.Add({{"reason", reason}}).Value());
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace mf
