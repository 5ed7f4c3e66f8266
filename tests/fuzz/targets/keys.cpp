// Folders of keys, of a server and of a worker. The input is server.key, clients, client.key and
// server.pub, with NUL bytes between them.
#include "common/net/keys.h"

#include <sys/stat.h>

#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  constexpr size_t kKeyCharacters = 40;
  constexpr const char* kNames[] = {"server.key", "clients", "client.key", "server.pub"};
  const std::vector<std::string> texts = fuzz::Parts(fuzz::TextOf(data, size), 4);
  for (size_t i = 0; i < texts.size(); ++i) fuzz::ScratchFile(kNames[i], texts[i]);
  const auto is_pair = [&](const KeyPair& pair) {
    return pair.public_key.size() == kKeyCharacters && pair.secret_key.size() == kKeyCharacters;
  };
  const auto one_line = [](const Status& status) {
    return status.message().find('\n') == std::string::npos;
  };
  if (auto server = LoadServerKeys(fuzz::ScratchFolder()); server.ok()) {
    MF_CHECK(is_pair(server->own));
    auto clients = ReadClients(server->clients_file);
    MF_CHECK(clients.ok() && !clients->empty());
    for (const auto& [key, name] : *clients)
      MF_CHECK(key.size() == kKeyCharacters && !name.empty());
  } else {
    MF_CHECK(one_line(server.status()));
  }
  if (auto client = LoadClientKeys(fuzz::ScratchFolder()); client.ok()) {
    MF_CHECK(is_pair(client->own) && client->server_public_key.size() == kKeyCharacters);
  } else {
    MF_CHECK(one_line(client.status()));
  }
  return 0;
}
