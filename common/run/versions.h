// Which version this program is, and which versions it reads of everything that outlives a process
// or comes from another one. The rule for all of them: a newer version is refused with one line
// that says to update, an older one is read, or refused with one line that says how to go on.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"

namespace mf {

/// A version of this program: which source, and which compiler made the program of it.
struct ProgramVersion {
  std::string version;   // "0.1.0"
  std::string commit;    // 12 digits, of the checkout that was configured; empty: none
  std::string compiler;  // "GCC 12.2.0"

  /// "0.1.0, commit 2e9c7770ab12, GCC 12.2.0"
  std::string Text() const;
  bool operator==(const ProgramVersion&) const = default;
};
/// The one that runs.
const ProgramVersion& ThisProgram();

/// A kind of files or messages with a number for its versions. Run descriptions and exports began
/// without one: what has none is version 1, and the number is written from version 2 on, so that
/// version 1 stays as it was, byte by byte.
struct Format {
  const char* name;         // in messages, the number follows: "snapshot format"
  uint32_t oldest, newest;  // that this program reads; it writes the newest
  const char* reader;       // who is to be updated if it meets a newer one
  const char* if_older;     // what to do about one that is too old
};

inline constexpr Format kProtocolFormat{"protocol", 6, 6, "this server",
                                        "update the program that "
                                        "asks it"};
inline constexpr Format kSnapshotFormat{
    "snapshot format", 2, 2, "this program",
    "go on with the version that wrote it, or start in another folder"};
inline constexpr Format kRunDescriptionFormat{"run description format", 1, 1, "this program",
                                              "use the version that wrote it"};
inline constexpr Format kExportFormat{"export format", 1, 1, "this program",
                                      "use the version that wrote it"};
inline constexpr Format kRunFileFormat{"run.json format", 1, 1, "this program",
                                       "use the version that wrote it"};
inline constexpr Format kDigestStoreFormat{"data-digests format", 1, 1, "this program",
                                           "delete the file"};

/// Ok if this program reads that version. Else kInvalid, "WHERE: snapshot format 3: written by a
/// newer version, update this program (it reads 2)"; `where` may be empty.
Status CheckVersion(const Format& format, uint64_t version, const std::string& where);

}  // namespace mf
