// pserver keygen --out DIR [--add-client NAME]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "common/net/transport.h"
#include "pserver/commands/commands.h"

namespace mf {
namespace {

struct KeygenFlags {
  std::string out, client;
};

Status Run(const KeygenFlags& flags) {
  MF_ASSIGN_OR_RETURN(const KeyPair client, NewKeyPair());
  if (!flags.client.empty()) {
    MF_RETURN_IF_ERROR(AddClientKeys(flags.out, flags.client, client));
    std::printf("%s/%s: for the new client (--keys); %s/server/clients admits it\n",
                flags.out.c_str(), flags.client.c_str(), flags.out.c_str());
    return Status::Ok();
  }
  MF_ASSIGN_OR_RETURN(const KeyPair server, NewKeyPair());
  MF_RETURN_IF_ERROR(WriteClusterKeys(flags.out, server, client));
  std::printf("%s/server: for every pserver (--keys)\n%s/client: for workers (--keys)\n",
              flags.out.c_str(), flags.out.c_str());
  return Status::Ok();
}

}  // namespace

void AddKeygenCommand(CLI::App& app, Status* status) {
  auto flags = std::make_shared<KeygenFlags>();
  CLI::App* command = app.add_subcommand("keygen", "Make the keys of a cluster");
  command->add_option("--out", flags->out, "Folder for server/ and client/")->required();
  command->add_option("--add-client", flags->client, "One more client for the keys in --out: NAME");
  command->callback([flags, status] { *status = Run(*flags); });
}

}  // namespace mf
