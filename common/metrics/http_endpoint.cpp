#include "common/metrics/http_endpoint.h"

#include <httplib.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/address.h"
#include "common/base/machine_limits.h"
#include "common/base/mutex.h"

namespace mf {
namespace {

// Connections that say nothing keep nobody out: each has a thread, for a second, and whoever asks
// beside them has one of the others.
constexpr size_t kThreadsMax = 24;
constexpr size_t kWaitingMax = 8;       // connections accepted beyond those, each an open file
constexpr time_t kSilenceSeconds = 1;   // until a request begins, and between its bytes
constexpr time_t kWriteSeconds = 5;     // until a part of the reply is taken
constexpr int kFiles = 4;               // to listen and to be scraped
constexpr size_t kBodyBytesMax = 4096;  // of a request: there is nothing to say

/// The threads of connections, made as they are needed: most processes are asked by one scraper.
/// Where all are busy and enough wait, enqueue() waits, too, and the kernel keeps the connections
/// that come then. (httplib's own pool takes any number.)
class ConnectionThreads : public httplib::TaskQueue {
 public:
  /// void, or bool in newer versions of httplib: whether it was taken.
  using Taken = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));

  ConnectionThreads() {
    threads_.emplace_back([this] { Run(); });
  }

  Taken enqueue(std::function<void()> connection) override {
    MutexLock lock(mutex_);
    while (waiting_.size() >= kWaitingMax) room_.Wait(mutex_);
    waiting_.push_back(std::move(connection));
    if (idle_ < waiting_.size() && threads_.size() < kThreadsMax) AddThread();
    work_.NotifyOne();
    return Taken(true);
  }

  /// The last call: what waits is done before it returns.
  void shutdown() override {
    std::vector<std::thread> threads;
    {
      MutexLock lock(mutex_);
      over_ = true;
      threads.swap(threads_);
    }
    work_.NotifyAll();
    for (std::thread& thread : threads) thread.join();
  }

 private:
  void AddThread() MF_REQUIRES(mutex_) {
    try {
      threads_.emplace_back([this] { Run(); });
    } catch (const std::system_error&) {
      // No more for this process: those that are there do it, later.
    }
  }

  void Run() {
    MutexLock lock(mutex_);
    for (;;) {
      while (waiting_.empty() && !over_) {
        ++idle_;
        work_.Wait(mutex_);
        --idle_;
      }
      if (waiting_.empty()) return;
      const std::function<void()> connection = std::move(waiting_.front());
      waiting_.pop_front();
      room_.NotifyOne();
      lock.Unlock();
      connection();
      lock.Lock();
    }
  }

  Mutex mutex_;
  ConditionVariable work_, room_;
  std::deque<std::function<void()>> waiting_ MF_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ MF_GUARDED_BY(mutex_);
  size_t idle_ MF_GUARDED_BY(mutex_) = 0;
  bool over_ MF_GUARDED_BY(mutex_) = false;
};

}  // namespace

struct HttpEndpoint::State {
  httplib::Server server;
  std::thread thread;
};

HttpEndpoint::HttpEndpoint() : state_(std::make_unique<State>()) {}

HttpEndpoint::~HttpEndpoint() {
  state_->server.stop();
  if (state_->thread.joinable()) state_->thread.join();
}

Result<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Serve(const std::string& address,
                                                          const Pages& pages) {
  MF_ASSIGN_OR_RETURN(const Address wanted,
                      ParseHostPort("--metrics", address, AddressUse::kListen));
  MF_ASSIGN_OR_RETURN(Address own, ResolveToListen("--metrics", wanted));
  MF_RETURN_IF_ERROR(CheckThreads(2));  // to accept connections, and for the first of them
  MF_RETURN_IF_ERROR(CheckOpenFiles(kFiles));
  std::unique_ptr<HttpEndpoint> endpoint(new HttpEndpoint());
  httplib::Server& server = endpoint->state_->server;
  server.new_task_queue = [] { return new ConnectionThreads(); };
  // A connection a request: a thread does not wait for the next one.
  server.set_keep_alive_max_count(1);
  server.set_payload_max_length(kBodyBytesMax);
  server.set_keep_alive_timeout(kSilenceSeconds);
  server.set_read_timeout(kSilenceSeconds);
  server.set_write_timeout(kWriteSeconds);
  // The default would let two processes share a port, each with half of the scrapes.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  for (const auto& page : pages) {
    server.Get(page.first,
               [reply = page.second](const httplib::Request&, httplib::Response& response) {
                 const HttpReply answer = reply();
                 response.status = answer.code;
                 response.set_content(answer.text, "text/plain; version=0.0.4");
               });
  }
  if (own.port == 0) {
    own.port = static_cast<uint16_t>(std::max(0, server.bind_to_any_port(own.host)));
  } else if (!server.bind_to_port(own.host, own.port)) {
    own.port = 0;
  }
  if (own.port == 0) {
    return Status::Invalid("--metrics " + address + ": cannot listen on " + wanted.HostPort() +
                           ": the port is taken or the host is not this machine's");
  }
  endpoint->address_ = own.HostPort();
  endpoint->state_->thread = std::thread([&server] { server.listen_after_bind(); });
  // stop() does nothing to a server that has not begun.
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return endpoint;
}

}  // namespace mf
