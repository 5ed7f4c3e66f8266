// Writes first inputs for every fuzz target, OUT/TARGET/NAME, and words for some, OUT/TARGET.dict.
// Each is made by the code that writes such data for users: the fuzzer begins with what is right.
//   fuzz_seeds OUT CONFIG.toml...
#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "common/net/keys.h"
#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_format.h"
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/seed_scripts.h"
#include "tests/fuzz/support/server_case.h"
#include "tests/fuzz/support/target.h"
#include "worker/config/config_keys.h"
#include "worker/config/tensors.h"
#include "worker/data/digest_store.h"
#include "worker/export/safetensors.h"

namespace mf::fuzz {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  MF_CHECK(file.is_open());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class Seeds {
 public:
  explicit Seeds(std::string out) : out_(std::move(out)) {}

  void Add(const std::string& target, const std::string& name, const std::string& text) {
    MF_CHECK(MakeFolder(out_ + "/" + target).ok());
    Write(out_ + "/" + target + "/" + name, text);
  }
  /// Parts with NUL bytes between them.
  void Add(const std::string& target, const std::string& name,
           const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts)
      text += (&part == &parts[0] ? "" : std::string(1, '\0')) + part;
    Add(target, name, text);
  }
  void Words(const std::string& target, const std::set<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
      text += '"';
      for (const char c : word)
        text += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
      text += "\"\n";
    }
    Write(out_ + "/" + target + ".dict", text);
  }

 private:
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    MF_CHECK(FileBytes(path) == text.size());
  }
  const std::string out_;
};

/// What stands in quotes, with them.
std::set<std::string> QuotedWords(const std::string& json) {
  std::set<std::string> words;
  for (size_t at = json.find('"'); at != std::string::npos; at = json.find('"', at + 1)) {
    const size_t end = json.find('"', at + 1);
    if (end == std::string::npos) break;
    if (end - at < 64) words.insert(json.substr(at, end + 1 - at));
    at = end;
  }
  return words;
}

/// The smallest model that there is.
Config SmallConfig() {
  Config config;
  config.model.d = 8;
  config.model.K = 4;
  config.model.tau = 2;
  config.model.expand_bits = 0;
  config.model.layers = 1;
  config.model.heads = 1;
  config.model.sequence = 4;
  config.model.vocabulary = 3;
  MF_CHECK(CheckConfig(config).ok());
  return config;
}

void AddServers(Seeds& seeds) {
  for (const auto& [name, script] : JoinedScripts()) seeds.Add("server_joined", name, script);
  for (const auto& [name, script] : UnjoinedScripts()) seeds.Add("server_unjoined", name, script);
  for (const auto& [name, header] : ReplyHeaders()) seeds.Add("replies", name, header);
}

void AddRuns(Seeds& seeds) {
  const std::string small = DescribeRun(SmallConfig(), "none").Json();
  seeds.Add("run_description", "tiny", {TinyRun(0).Json(), TinyRun(kBf16).Json()});
  seeds.Add("run_description", "model", {small, ""});
  std::set<std::string> words = QuotedWords(TinyRun(0).Json());
  words.merge(QuotedWords(small));
  seeds.Words("run_description", words);
  seeds.Words("server_unjoined", words);
}

void AddConfigs(Seeds& seeds, const std::vector<std::string>& files) {
  std::string all, section;
  std::set<std::string> words;
  const Config defaults = SmallConfig();
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section != section) all += "[" + (section = key.section) + "]\n";
    all += key.name + " = " + FormatKeyValue(key.get(defaults)) + "\n";
    words.merge(std::set<std::string>{key.name, key.section, key.full_name() + "="});
    // Words that a key allows stand in a list.
    for (size_t at = 0; at < key.allowed.size();) {
      const size_t end = std::min(key.allowed.find(", ", at), key.allowed.size());
      words.insert(key.allowed.substr(at, end - at));
      at = end + 2;
    }
  }
  seeds.Add("config", "all_keys", {all, "train.lr=0.5", "model.norm=layernorm", "model.seed=7"});
  for (const std::string& file : files) {
    seeds.Add("config", file.substr(file.rfind('/') + 1), {ReadText(file), "train.steps=3"});
  }
  seeds.Words("config", words);
}

template <class T>
std::string BytesOf(const std::vector<T>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(T)};
}

void AddData(Seeds& seeds) {
  const std::string text = "In the beginning\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 was the Word.\n";
  seeds.Add("text", "utf8", "\x03" + text + text);
  seeds.Add("text", "utf16", std::string("\x05\xFF\xFEI\0n\0 \0t\0h\0e\0", 14));
  std::vector<uint16_t> narrow;
  std::vector<uint32_t> wide;
  for (uint16_t i = 0; i < 80; ++i) {
    narrow.push_back(static_cast<uint16_t>(i * 13 % 250));
    wide.push_back(i * 13 % 250);
  }
  // Vocabulary 257, ids of a .bin file with a digest; no index, or one of Megatron that says int32.
  const std::string head = std::string("\x8A\x10", 2);
  const std::string index =
      std::string("MMIDIDX\0\0\1\0\0\0\0\0\0\0\4\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 34) +
      std::string("\x50\0\0\0\0\0\0\0\0\0\0\0", 12);  // one sequence of 80 ids
  seeds.Add("token_files", "u16", head + std::string(1, '\0') + BytesOf(narrow));
  seeds.Add("token_files", "index", head + "\x2E" + index + BytesOf(wide));
  std::vector<uint32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<uint32_t>(narrow.size());
  seeds.Add("token_files", "llmc", head + std::string(1, '\0') + BytesOf(header) + BytesOf(narrow));
  seeds.Add("token_files", "text", std::string("\x82\x05\0", 3) + text);
  DigestStore store;
  store.Add("/data/a.bin", {.device = 1, .inode = 2, .bytes = 3, .modified_ns = 4, .changed_ns = 5},
            {Sha256Hex("a"), Sha256Hex("b")});
  const std::string path = ScratchFolder() + "/data-digests";
  MF_CHECK(store.Save(path).ok());
  const std::string saved = ReadText(path);
  seeds.Add("data_digests", "one", saved.substr(0, saved.size() - 65));  // without its own digest
}

void AddModel(Seeds& seeds) {
  const Config config = SmallConfig();
  const std::vector<TensorSpec> tensors = TensorsOf(config);
  const std::string path = ScratchFolder() + "/model.safetensors";
  auto writer = SafetensorsWriter::Create(path, EntriesOf(tensors), ModelJson(config));
  MF_CHECK(writer.ok());
  for (const TensorSpec& tensor : tensors) {
    const std::vector<float> zeros(tensor.values());
    MF_CHECK((*writer)->Append(zeros.data(), zeros.size() * sizeof(float)).ok());
  }
  MF_CHECK((*writer)->Finish().ok());
  const std::string text = ReadText(path);
  seeds.Add("safetensors", "model", text);
  std::set<std::string> words = QuotedWords(text.substr(8, text.find('\0', 8) - 8));
  words.merge(std::set<std::string>{"\"F16\"", "\"BF16\"", "\"U64\""});
  seeds.Words("safetensors", words);
}

SnapshotDigest DigestOfFiles(const std::string& table, const std::string& small) {
  SnapshotDigest digest;
  const RunDescription run = TinyRun(0);
  digest.info = {.step = 7, .run_id = run.RunId(), .description = run.Json(), .applied = 6};
  digest.published_unix = 1'700'000'000;
  digest.spaces = {{0, 2, 500}, {kRateSpace, 6, 48}};
  const std::string sst = ScratchFile("000001.sst", table), current = ScratchFile("CURRENT", small);
  digest.files = {{.name = "000001.sst", .bytes = table.size(), .crc32c = {}},
                  {.name = "CURRENT", .bytes = small.size(), .crc32c = {}}};
  digest.files[0].tail = 3;
  digest.files[0].crc32c = Crc32cOfFile(sst, 0).value();
  digest.files[0].tail_crc32c = Crc32cOfFile(sst, 3).value();
  digest.files[1].crc32c = Crc32cOfFile(current, 0).value();
  return digest;
}

void AddSnapshots(Seeds& seeds) {
  const std::string table = "a table's bytes", small = "MANIFEST-000004\n";
  const std::string digest = EncodeDigest(DigestOfFiles(table, small));
  seeds.Add("snapshot_digest", "two_files", {digest, table, small});
  seeds.Words("snapshot_digest", QuotedWords(digest));
  seeds.Add("snapshot_folder", "one",
            {"shard-0-of-2", "step-12", TinyRun(0).Json(), "3\n", "7\n", digest});
  for (const auto& [name, entries] : EntryScripts()) seeds.Add("snapshot_entries", name, entries);
}

void AddKeysAndAddresses(Seeds& seeds) {
  // Not NewKeyPair(): seeds are the same every time.
  const KeyPair server{std::string(40, 'a'), std::string(40, 'b')};
  const KeyPair client{std::string(40, 'c'), std::string(40, '.')};
  const std::string folder = ScratchFolder() + "/keys";
  MF_CHECK(WriteClusterKeys(folder, server, client).ok());
  MF_CHECK(AddClientKeys(folder, "second", client).ok());
  seeds.Add("keys", "cluster",
            {ReadText(folder + "/server/server.key"), ReadText(folder + "/server/clients"),
             ReadText(folder + "/client/client.key"), ReadText(folder + "/client/server.pub")});
  seeds.Words("keys", {"public ", "secret ", "client ", server.public_key, "#", "\\x0a"});
  seeds.Add("addresses", "names",
            {"tcp://host-1:7000,tcp://10.0.0.1:65535", "tcp://[::1]:7000", ""});
  seeds.Add("addresses", "listen", {"tcp://*:0", "tcp://[fe80::1%eth0]:1", "tcp://localhost:80"});
  seeds.Add("addresses", "metrics", {"[::ffff:127.0.0.1]:9400", "127.0.0.1:9400", "*:9400"});
  seeds.Words("addresses",
              {"tcp://", "[::1]", ":7000", "[", "]", "%", "*", "localhost", ",tcp://a:1"});
}

}  // namespace
}  // namespace mf::fuzz

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: fuzz_seeds OUT CONFIG.toml...\n");
    return 2;
  }
  mf::fuzz::Seeds seeds(argv[1]);
  mf::fuzz::AddServers(seeds);
  mf::fuzz::AddRuns(seeds);
  mf::fuzz::AddConfigs(seeds, {argv + 2, argv + argc});
  mf::fuzz::AddData(seeds);
  mf::fuzz::AddModel(seeds);
  mf::fuzz::AddSnapshots(seeds);
  mf::fuzz::AddKeysAndAddresses(seeds);
  return 0;
}
