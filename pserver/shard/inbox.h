// Requests that wait for a server: whose turn is next, and for how many there is room.
//
// Turns: the peer that has paid least comes next, its oldest request first (start-time fair
// queueing: Goyal, Vin, Cheng, SIGCOMM 1996). It pays the server's time for each of its requests
// that wait meanwhile, so that a share of the server is the smaller the more is asked for at once.
// Workers have a few requests in flight; one that asks without end with 64 in flight leaves nine
// tenths to one with 6, and all that nobody else wants is its own. So who asks for less than its
// share waits for one request of somebody else at most, whatever the others ask for.
//
// Room: a peer's requests may take as many bytes as are still free (Choudhury and Hahne, "Dynamic
// Queue Length Thresholds", IEEE/ACM ToN 1998): one that floods gets half of the room, n of them
// leave 1 / (n + 1) of it, and who has little waiting always finds some. No socket, thread or clock
// inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/base/buffer_pool.h"
#include "common/net/messages.h"

namespace mf {

class Inbox {
 public:
  struct Item {
    std::string peer;
    Request request;
    uint64_t bytes = 0;  // of its message
    double at = 0;       // when it came
  };
  /// Room for `bytes_max` bytes and `items_max` requests.
  Inbox(uint64_t bytes_max, size_t items_max) : bytes_max_(bytes_max), items_max_(items_max) {}

  /// Takes the item. False, and it stays as it is, if there is no room for it. What finds its peer
  /// with nothing waiting, and less than all room taken, is taken whatever its size.
  bool Put(Item& item);
  /// The next one; nothing if none waits. The server says by Served() how long it took, before it
  /// asks again.
  std::optional<Item> Next();
  void Served(double seconds);

  bool empty() const { return items_ == 0; }
  size_t peers() const { return peers_.size(); }  // that it knows
  size_t items() const { return items_; }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Peer {
    std::deque<Item, PoolAllocator<Item>> items;
    uint64_t bytes = 0;
    double paid =
        0;  // seconds of the server times requests; of a new one as of the one served last
  };

  const uint64_t bytes_max_;
  const size_t items_max_;
  std::unordered_map<std::string, Peer> peers_;  // with something waiting, or of late
  size_t items_ = 0;
  uint64_t bytes_ = 0;
  double now_ = 0;      // what the peer served last had paid before
  std::string served_;  // whose request Next() gave
};

}  // namespace mf
