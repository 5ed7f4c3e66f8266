// First inputs of the targets that take messages or entries: what a right worker says to a server,
// from its hello to the last step, and what that server then has on its disk.
#pragma once

#include <map>
#include <string>

namespace mf::fuzz {

/// By name.
using NamedTexts = std::map<std::string, std::string>;

/// Scripts of message_script.h, without and with the hello that ServerCase says.
NamedTexts UnjoinedScripts();
NamedTexts JoinedScripts();
/// Header frames of replies to every operation.
NamedTexts ReplyHeaders();
/// Entries as targets/snapshot_entries.cpp takes them.
NamedTexts EntryScripts();

}  // namespace mf::fuzz
