#include "common/metrics/http_endpoint.h"

#include <httplib.h>

#include <charconv>
#include <chrono>
#include <thread>

namespace mf {
namespace {

constexpr size_t kThreads = 2;          // a scraper that says nothing does not keep out another one
constexpr size_t kBodyBytesMax = 4096;  // of a request: there is nothing to say
constexpr time_t kTimeoutSeconds = 5;   // for a whole request or reply

/// "host:port", or false.
bool Split(const std::string& address, std::string* host, int* port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  *host = address.substr(0, colon);
  const char* end = address.data() + address.size();
  const auto read = std::from_chars(address.data() + colon + 1, end, *port);
  return read.ec == std::errc() && read.ptr == end && *port >= 0 && *port <= 65535;
}

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
                                                          const std::string& path,
                                                          std::function<std::string()> text) {
  std::string host;
  int port = 0;
  if (!Split(address, &host, &port)) {
    return Status::Invalid("cannot listen on " + address + ": not of the form HOST:PORT");
  }
  std::unique_ptr<HttpEndpoint> endpoint(new HttpEndpoint());
  httplib::Server& server = endpoint->state_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // A connection a request: a thread does not wait for the next one.
  server.set_keep_alive_max_count(1);
  server.set_payload_max_length(kBodyBytesMax);
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  // The default would let two processes share a port, each with half of the scrapes.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.Get(path, [text = std::move(text)](const httplib::Request&, httplib::Response& response) {
    response.set_content(text(), "text/plain; version=0.0.4");
  });
  if (port == 0) {
    port = server.bind_to_any_port(host);
    if (port < 0) port = 0;
  } else if (!server.bind_to_port(host, port)) {
    port = 0;
  }
  if (port == 0) {
    return Status::Invalid("cannot listen on " + address +
                           ": the port is taken or the host is not this machine's");
  }
  endpoint->address_ = host + ":" + std::to_string(port);
  endpoint->state_->thread = std::thread([&server] { server.listen_after_bind(); });
  // stop() does nothing to a server that has not begun.
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return endpoint;
}

}  // namespace mf
