// Pages over HTTP: what Prometheus scrapes, and what a health check asks. The only file that knows
// cpp-httplib. (prometheus-cpp's own server runs on threads with 100 KB of stack, of which
// OpenBLAS's thread-local memory takes 61: a scrape ended the worker.)
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace mf {

struct HttpReply {
  int code = 200;
  std::string text = {};
};

class HttpEndpoint {
 public:
  using Pages = std::map<std::string, std::function<HttpReply()>>;
  /// Answers GET of each of `pages` on "HOST:PORT" (port 0: any; common/base/address.h) until
  /// destroyed, from threads of its own. kInvalid, naming --metrics and the address, if it cannot
  /// listen there; kFailed without threads.
  static Result<std::unique_ptr<HttpEndpoint>> Serve(const std::string& address,
                                                     const Pages& pages);
  ~HttpEndpoint();

  /// "NUMBER:PORT", port 0 replaced.
  const std::string& address() const { return address_; }

 private:
  struct State;
  HttpEndpoint();
  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace mf
