#include "common/net/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/input_file.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

constexpr size_t kKeyCharacters = 40;
constexpr size_t kMostBytes = 1 << 24;  // of a file of keys
constexpr const char* kMakeThem = "; pserver keygen --out DIR makes all files";

/// The words of each line that is neither empty nor a comment.
Result<std::vector<std::vector<std::string>>> ReadLines(const std::string& file) {
  const Result<std::string> text = ReadInput(file, "", kMostBytes);
  if (!text.ok()) return Status::Invalid(text.status().message() + kMakeThem);
  std::istringstream in(text.value());
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    std::vector<std::string> split;
    for (std::string word; words >> word;) split.push_back(word);
    if (!split.empty()) lines.push_back(std::move(split));
  }
  return lines;
}

bool IsKey(const std::string& word) {
  // The alphabet of Z85. What has these characters may still be too large a number; ZeroMQ sees
  // that.
  constexpr const char* kAlphabet =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
  return word.size() == kKeyCharacters && word.find_first_not_of(kAlphabet) == std::string::npos;
}

Status Malformed(const std::string& file, const std::string& due) {
  return Status::Invalid(file + ": not a file of keys: " + due + " is due" + kMakeThem);
}

/// The key on the line "`kind` KEY".
Result<std::string> ReadKey(const std::string& file, const std::string& kind) {
  MF_ASSIGN_OR_RETURN(const auto lines, ReadLines(file));
  for (const auto& words : lines) {
    if (words.size() == 2 && words[0] == kind && IsKey(words[1])) return words[1];
  }
  return Malformed(file, "a line \"" + kind + " KEY\" with a key of 40 characters");
}

/// Who may write this file says whom to trust.
Status CheckNotWritable(const std::string& file) {
  struct stat info;
  if (stat(file.c_str(), &info) != 0 || (info.st_mode & S_IWOTH) == 0) return Status::Ok();
  return Status::Invalid(file + ": everybody on this machine may write it; chmod 644 " + file);
}

Result<KeyPair> ReadPair(const std::string& file) {
  struct stat info;
  if (stat(file.c_str(), &info) == 0 && (info.st_mode & S_IRWXO) != 0) {
    return Status::Invalid(file + ": a secret that everybody on this machine may open; chmod 600 " +
                           file);
  }
  KeyPair pair;
  MF_ASSIGN_OR_RETURN(pair.public_key, ReadKey(file, "public"));
  MF_ASSIGN_OR_RETURN(pair.secret_key, ReadKey(file, "secret"));
  return pair;
}

Status CannotMake(const std::string& path, const std::string& why) {
  return Status::Invalid(path + ": cannot be made: " + why + "; give another --out");
}

/// Makes a file that was not there, with `mode` from its first moment, or owner and mode of `like`,
/// and syncs it.
Status WriteNewFile(const std::string& file, mode_t mode, const std::string& text,
                    const struct stat* like = nullptr) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return CannotMake(file, std::strerror(errno));
  const bool alike = like == nullptr || (fchown(fd, like->st_uid, like->st_gid) == 0 &&
                                         fchmod(fd, like->st_mode & 07777) == 0);
  const bool good = alike &&
                    write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                    fsync(fd) == 0;
  const std::string why = std::strerror(errno);
  close(fd);
  if (good) return Status::Ok();
  unlink(file.c_str());
  return Status::Failed(file + ": " + why);
}

Status MakeKeyFolder(const std::string& folder) {
  if (const Status made = MakeFolder(folder); !made.ok()) {
    return Status::Invalid(made.message() + "; give another --out");
  }
  std::error_code error;
  fs::permissions(folder, fs::perms::owner_all, error);
  if (error) return CannotMake(folder, error.message());
  return Status::Ok();
}

std::string PairText(const std::string& whose, const KeyPair& pair) {
  return "# The key pair of " + whose + ". Secret: nobody else may read this file.\npublic " +
         pair.public_key + "\nsecret " + pair.secret_key + "\n";
}

std::vector<std::string> FilesOfClient(const std::string& folder) {
  return {folder + "/client.key", folder + "/server.pub"};
}

Status WriteClientFolder(const std::string& folder, const std::string& server_public_key,
                         const KeyPair& client) {
  MF_RETURN_IF_ERROR(MakeKeyFolder(folder));
  MF_RETURN_IF_ERROR(WriteNewFile(folder + "/client.key", 0600, PairText("a worker", client)));
  MF_RETURN_IF_ERROR(
      WriteNewFile(folder + "/server.pub", 0644, "public " + server_public_key + "\n"));
  return SyncPath(folder);
}

/// What could not be finished is taken away again, so that the next try meets nothing.
Status RemoveIfFailed(const Status& status, const std::vector<std::string>& files) {
  if (!status.ok()) {
    for (const std::string& file : files) unlink(file.c_str());
  }
  return status;
}

/// Those of them that are there: keys of an earlier time, which are not replaced.
Status CheckAbsent(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    if (!FileExists(file)) continue;
    return Status::Invalid(file +
                           " is there already, and is not replaced; give another --out, or delete "
                           "the old keys");
  }
  return Status::Ok();
}

/// Held while a client is added: whoever comes between reading the list and replacing it would lose
/// his line. The file of the lock stays: two could hold one that is removed.
Result<FileLock> LockClients(const std::string& clients) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kBetweenTries(20);
  constexpr std::chrono::seconds kPatience(30);
  std::error_code error;
  const fs::path place = fs::canonical(clients, error);  // one list may have several links
  if (error) return Status::Failed(clients + ": " + error.message());
  const std::string file = place.string() + ".lock";
  for (const auto until = Clock::now() + kPatience;;) {
    auto lock = FileLock::Take(file, FileLock::Kind::kExclusive, NoLocks::kGoOn);
    if (lock.ok()) return lock;
    if (lock.status().code() != Code::kUnavailable)
      return Status::Invalid(lock.status().message() + "; give another --out");
    if (Clock::now() >= until) {
      return Status::Failed(file +
                            ": another keygen has held it for 30 s; end that one and try "
                            "again");
    }
    std::this_thread::sleep_for(kBetweenTries);
  }
}

/// Appends a line, also where the last one has no end. Readers, and whoever comes after a power
/// cut, find the old file or the new one: half a line would keep everybody out. Under
/// LockClients().
Status AppendLine(const std::string& file, const std::string& line) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadInput(file, "", kMostBytes));
  const std::string whole = text + (text.empty() || text.ends_with('\n') ? "" : "\n") + line;
  std::error_code error;
  const std::string place = fs::canonical(file, error).string();  // a link stays one
  struct stat info = {};
  if (error || stat(place.c_str(), &info) != 0)
    return Status::Failed(file + ": " + (error ? error.message() : std::strerror(errno)));
  const std::string temporary = place + ".partial-" + std::to_string(getpid());
  MF_RETURN_IF_ERROR(WriteNewFile(temporary, 0600, whole, &info));
  const Status published = PublishPath(temporary, place);
  if (!published.ok()) unlink(temporary.c_str());
  return published;
}

std::string ClientLine(const KeyPair& client, const std::string& name) {
  return "client " + client.public_key + " " + name + "\n";
}

}  // namespace

Result<std::map<std::string, std::string>> ReadClients(const std::string& file) {
  MF_ASSIGN_OR_RETURN(const auto lines, ReadLines(file));
  std::map<std::string, std::string> names;
  for (const auto& words : lines) {
    if (words.size() != 3 || words[0] != "client" || !IsKey(words[1])) {
      return Malformed(file, "\"client KEY NAME\" in every line");
    }
    names[words[1]] = words[2];
  }
  return names;
}

Result<ServerKeys> LoadServerKeys(const std::string& folder) {
  ServerKeys keys;
  MF_ASSIGN_OR_RETURN(keys.own, ReadPair(folder + "/server.key"));
  keys.clients_file = folder + "/clients";
  MF_RETURN_IF_ERROR(CheckNotWritable(keys.clients_file));
  MF_ASSIGN_OR_RETURN(const auto clients, ReadClients(keys.clients_file));
  if (clients.empty()) {
    return Status::Invalid(keys.clients_file +
                           ": nobody is admitted; add lines \"client KEY NAME\"");
  }
  return keys;
}

Result<ClientKeys> LoadClientKeys(const std::string& folder) {
  ClientKeys keys;
  MF_ASSIGN_OR_RETURN(keys.own, ReadPair(folder + "/client.key"));
  MF_RETURN_IF_ERROR(CheckNotWritable(folder + "/server.pub"));
  MF_ASSIGN_OR_RETURN(keys.server_public_key, ReadKey(folder + "/server.pub", "public"));
  return keys;
}

Status WriteClusterKeys(const std::string& folder, const KeyPair& server, const KeyPair& client) {
  const std::string secret = folder + "/server/server.key", clients = folder + "/server/clients";
  std::vector<std::string> files = FilesOfClient(folder + "/client");
  files.insert(files.end(), {secret, clients});
  MF_RETURN_IF_ERROR(CheckAbsent(files));
  MF_RETURN_IF_ERROR(MakeKeyFolder(folder + "/server"));
  // Of several programs that do this at once, the one that makes this file makes all.
  MF_RETURN_IF_ERROR(WriteNewFile(secret, 0600, PairText("the servers", server)));
  const auto write_rest = [&]() -> Status {
    MF_RETURN_IF_ERROR(WriteNewFile(
        clients, 0644,
        "# Who is admitted. Read for every new connection.\n" + ClientLine(client, "client")));
    MF_RETURN_IF_ERROR(SyncPath(folder + "/server"));
    return WriteClientFolder(folder + "/client", server.public_key, client);
  };
  return RemoveIfFailed(write_rest(), files);
}

Status AddClientKeys(const std::string& folder, const std::string& name, const KeyPair& client) {
  const bool plain = !name.empty() && name.size() <= 64 && name != "server" &&
                     std::all_of(name.begin(), name.end(), [](unsigned char c) {
                       return std::isalnum(c) != 0 || c == '-' || c == '_';
                     });
  if (!plain) {
    return Status::Invalid("--add-client " + name +
                           ": letters, digits, - and _ only, not \"server\"");
  }
  MF_ASSIGN_OR_RETURN(const ServerKeys server, LoadServerKeys(folder + "/server"));
  MF_ASSIGN_OR_RETURN(const FileLock lock, LockClients(server.clients_file));
  MF_ASSIGN_OR_RETURN(const auto clients, ReadClients(server.clients_file));
  for (const auto& [key, admitted] : clients) {
    if (admitted == name) {
      return Status::Invalid(server.clients_file + " admits a " + name + " already");
    }
  }
  const std::vector<std::string> files = FilesOfClient(folder + "/" + name);
  MF_RETURN_IF_ERROR(CheckAbsent(files));
  const auto write_all = [&]() -> Status {
    MF_RETURN_IF_ERROR(WriteClientFolder(folder + "/" + name, server.own.public_key, client));
    // Last, so that a key which is admitted has been handed out.
    return AppendLine(server.clients_file, ClientLine(client, name));
  };
  return RemoveIfFailed(write_all(), files);
}

}  // namespace mf
