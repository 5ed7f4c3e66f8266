#include "common/client/save_step.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "common/client/lease_work.h"

namespace mf {
namespace {
constexpr std::chrono::milliseconds kBetweenAsks(50);
}

Status SaveStep(Client& client, uint64_t step, double patience_seconds) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + std::chrono::duration<double>(patience_seconds);
  const auto ask = [&](bool by_all) {
    const Request save{.body = SaveRequest{.step = step, .by_all = by_all}};
    return client.CallAll(std::vector<Request>(client.servers(), save)).get();
  };
  for (;;) {
    Client::Outcome replies = ask(false);
    if (!replies.ok()) return replies.status();
    if (AllSaved(*replies, step)) return ask(true).status();
    if (Clock::now() > until) break;
    std::this_thread::sleep_for(kBetweenAsks);
  }
  return Status::Failed("step " + std::to_string(step) + " was not saved by all servers within " +
                        std::to_string(static_cast<int>(patience_seconds)) + " s");
}

}  // namespace mf
