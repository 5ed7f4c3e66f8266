// The keys of a cluster: who may talk to whom (DESIGN 5). A CURVE key is 32 bytes, written as 40
// printable characters (Z85, ZeroMQ RFC 32). A folder of keys holds, for a server,
//   server.key   its key pair; secret
//   clients      "client KEY NAME" a line: who is admitted
//   clients.lock held while a client is added
// and for a worker,
//   client.key   its key pair; secret
//   server.pub   "public KEY": the only servers it talks to
// Lines that begin with # are comments. All servers of a cluster have one key pair.
#pragma once

#include <map>
#include <string>

#include "common/base/status.h"

namespace mf {

struct KeyPair {
  std::string public_key, secret_key;  // 40 characters each
};

struct ServerKeys {
  KeyPair own;
  std::string clients_file;  // is read again for every connection: changing it needs no restart
};

struct ClientKeys {
  KeyPair own;
  std::string server_public_key;
};

/// The keys in `folder`. kInvalid, with the file and what to do, where a file is missing,
/// unreadable or malformed, where others than owner and group may read a secret or write the rest,
/// and where nobody is admitted.
Result<ServerKeys> LoadServerKeys(const std::string& folder);
Result<ClientKeys> LoadClientKeys(const std::string& folder);

/// Admitted clients: name by public key.
Result<std::map<std::string, std::string>> ReadClients(const std::string& file);

/// Writes the files of a new cluster, DIR/server and DIR/client, for a fresh pair each; refuses to
/// replace a key, and leaves nothing where it fails. Secrets can be read by their owner only from
/// the start.
Status WriteClusterKeys(const std::string& folder, const KeyPair& server, const KeyPair& client);
/// One more client for the cluster whose files WriteClusterKeys() made in `folder`: DIR/NAME, and a
/// line in DIR/server/clients.
Status AddClientKeys(const std::string& folder, const std::string& name, const KeyPair& client);

}  // namespace mf
