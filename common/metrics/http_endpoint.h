// One page over HTTP: what Prometheus scrapes. The only file that knows cpp-httplib.
// (prometheus-cpp's own server runs on threads with 100 KB of stack, of which OpenBLAS's
// thread-local memory takes 61: a scrape ended the worker.)
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace mf {

class HttpEndpoint {
 public:
  /// Answers GET `path` on "host:port" (port 0: any) with `text()` until destroyed, from threads of
  /// its own. kInvalid, naming the address, if it cannot listen there.
  static Result<std::unique_ptr<HttpEndpoint>> Serve(const std::string& address,
                                                     const std::string& path,
                                                     std::function<std::string()> text);
  ~HttpEndpoint();

  /// "host:port", port 0 replaced.
  const std::string& address() const { return address_; }

 private:
  struct State;
  HttpEndpoint();
  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace mf
