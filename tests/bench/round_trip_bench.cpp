// What a small request costs beside what the transport costs: the median round trip of a client's
// `status` to a server, and of an empty exchange between a bare DEALER and a bare ROUTER, over TCP
// and inproc, in the same run. Turns are taken, so that a busy moment hits both. And how many bytes
// one connection carries: all messages between a worker and a server take the same one.
//
//   round_trip_bench [--calls N] [--repeats N] [--json FILE]
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/client/client.h"
#include "pserver/shard/server.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/report.h"
#include "worker/config/config.h"

namespace mf {
namespace {

template <class Call>
double MedianMicros(int calls, Call call) {
  std::vector<double> micros;
  for (int i = 0; i < calls; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    micros.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  std::nth_element(micros.begin(), micros.begin() + calls / 2, micros.end());
  return micros[static_cast<size_t>(calls / 2)];
}

/// A ROUTER that echoes in blocking calls, and a DEALER that asks it.
class BarePair {
 public:
  explicit BarePair(const std::string& address) {
    router_ = zmq_socket(context_, ZMQ_ROUTER);
    MF_CHECK(zmq_bind(router_, address.c_str()) == 0);
    char last[256];
    size_t size = sizeof last;
    zmq_getsockopt(router_, ZMQ_LAST_ENDPOINT, last, &size);
    dealer_ = zmq_socket(context_, ZMQ_DEALER);
    MF_CHECK(zmq_connect(dealer_, last) == 0);
    echo_ = std::thread([this] {
      char identity[256], body[256];
      while (true) {
        const int id_size = zmq_recv(router_, identity, sizeof identity, 0);
        const int body_size = zmq_recv(router_, body, sizeof body, 0);
        if (id_size < 0 || body_size <= 0) return;
        zmq_send(router_, identity, static_cast<size_t>(id_size), ZMQ_SNDMORE);
        zmq_send(router_, body, static_cast<size_t>(body_size), 0);
      }
    });
  }
  ~BarePair() {
    zmq_send(dealer_, "", 0, 0);  // ends the echo
    echo_.join();
    zmq_close(dealer_);
    zmq_close(router_);
    zmq_ctx_term(context_);
  }
  double Micros(int calls) {
    char body[200] = {1};
    return MedianMicros(calls, [&] {
      zmq_send(dealer_, body, sizeof body, 0);
      MF_CHECK(zmq_recv(dealer_, body, sizeof body, 0) == sizeof body);
    });
  }

 private:
  void* context_ = zmq_ctx_new();
  void* router_;
  void* dealer_;
  std::thread echo_;
};

class ServedPair {
 public:
  explicit ServedPair(const std::string& address) {
    auto bound = BindZmq(context_, address);
    MF_CHECK(bound.ok());
    Shard::Options options;
    options.memory_bytes = 1 << 30;
    server_ =
        std::make_unique<Server>(std::move(bound).value(), RunHost::Options{.shard = options}, 1);
    auto connected = ConnectZmq(context_, {server_->address()});
    MF_CHECK(connected.ok());
    client_ = std::make_unique<Client>(std::move(connected).value(),
                                       std::vector{server_->address()}, Client::Options{});
  }
  /// Requests that are refused at once, as nobody has joined: no work but the message's own.
  double Micros(int calls) {
    return MedianMicros(calls, [&] { client_->Call(0, Request()).wait(); });
  }

 private:
  TransportContext context_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
};

void Compare(const char* what, const std::string& address, int calls, int repeats, Report& report) {
  BarePair bare(address);
  ServedPair served(address);
  double best_bare = std::numeric_limits<double>::max(), best_served = best_bare;
  for (int i = 0; i < repeats; ++i) {
    best_bare = std::min(best_bare, bare.Micros(calls));
    best_served = std::min(best_served, served.Micros(calls));
  }
  report.Line(std::string("machine: round trip over ") + what, best_bare, "us", {},
              "bare ROUTER and DEALER");
  report.Line(std::string("server: round trip over ") + what, best_served, "us",
              {{"bare ROUTER and DEALER", best_served / best_bare}});
}

/// Before they are bound and connected. Whoever has the server's key is admitted.
void UseCurve(void* server, void* client) {
  constexpr size_t kKey = 41;  // Z85, with the terminating zero
  char public_key[kKey], secret_key[kKey];
  MF_CHECK(zmq_curve_keypair(public_key, secret_key) == 0);
  const int on = 1;
  zmq_setsockopt(server, ZMQ_CURVE_SERVER, &on, sizeof on);
  zmq_setsockopt(server, ZMQ_CURVE_SECRETKEY, secret_key, kKey);
  zmq_setsockopt(client, ZMQ_CURVE_SERVERKEY, public_key, kKey);
  MF_CHECK(zmq_curve_keypair(public_key, secret_key) == 0);
  zmq_setsockopt(client, ZMQ_CURVE_PUBLICKEY, public_key, kKey);
  zmq_setsockopt(client, ZMQ_CURVE_SECRETKEY, secret_key, kKey);
}

/// Bytes a second of messages of `size` through one TCP connection with a context at each end, as
/// between processes; nothing is copied by sender or receiver but what ZeroMQ and TCP copy.
double StreamRate(size_t size, size_t total, bool encrypted) {
  void* near = zmq_ctx_new();
  void* far = zmq_ctx_new();
  void* sender = zmq_socket(near, ZMQ_PUSH);
  void* receiver = zmq_socket(far, ZMQ_PULL);
  if (encrypted) UseCurve(sender, receiver);
  MF_CHECK(zmq_bind(sender, "tcp://127.0.0.1:*") == 0);
  char address[256];
  size_t length = sizeof address;
  zmq_getsockopt(sender, ZMQ_LAST_ENDPOINT, address, &length);
  MF_CHECK(zmq_connect(receiver, address) == 0);
  const size_t messages = total / size;
  std::vector<char> bytes(size, 1);
  const auto nothing_to_free = [](void*, void*) {};
  std::thread sending([&] {
    for (size_t i = 0; i < messages; ++i) {
      zmq_msg_t message;
      zmq_msg_init_data(&message, bytes.data(), size, nothing_to_free, nullptr);
      MF_CHECK(zmq_msg_send(&message, sender, 0) == static_cast<int>(size));
    }
  });
  std::chrono::steady_clock::time_point start;
  for (size_t i = 0; i < messages; ++i) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    MF_CHECK(zmq_msg_recv(&message, receiver, 0) == static_cast<int>(size));
    zmq_msg_close(&message);
    if (i == 0) start = std::chrono::steady_clock::now();
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  sending.join();
  zmq_close(sender);
  zmq_close(receiver);
  zmq_ctx_term(near);
  zmq_ctx_term(far);
  return static_cast<double>((messages - 1) * size) / seconds;
}

void PrintStream(int repeats, Report& report) {
  constexpr size_t kMessage = size_t{1} << 20, kTotal = size_t{1} << 29;
  double plain = 0, encrypted = 0;
  for (int i = 0; i < repeats; ++i) {
    plain = std::max(plain, StreamRate(kMessage, kTotal, false));
    encrypted = std::max(encrypted, StreamRate(kMessage, kTotal, true));
  }
  report.Line("machine: one TCP connection", plain / 1e9, "GB/s", {}, "ZeroMQ, 1 MiB messages");
  report.Line("machine: one TCP connection, CURVE", encrypted / 1e9, "GB/s",
              {{"without", encrypted / plain}}, "both ends encrypt on one thread each");
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  int calls = 2000, repeats = 5;
  std::string json;
  const std::string usage = "round_trip_bench [--calls N] [--repeats N] [--json FILE]";
  mf::ParseFlags(argc, argv, usage,
                 {{"--calls", &calls}, {"--repeats", &repeats}, {"--json", &json}});
  if (calls < 1 || repeats < 1) mf::EndWithUsage(usage);
  mf::Report report(json);
  mf::Compare("tcp", "tcp://127.0.0.1:0", calls, repeats, report);
  mf::Compare("inproc", "inproc://round-trip", calls, repeats, report);
  mf::PrintStream(repeats, report);
  return 0;
}
