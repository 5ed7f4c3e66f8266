// worker buckets: how evenly a running cluster's training hits its tables.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/files.h"
#include "common/client/connection.h"
#include "common/commands/command_line.h"
#include "common/metrics/bucket_summary.h"
#include "common/run/run_description.h"
#include "worker/commands/commands.h"
#include "worker/export/export.h"
#include "worker/train/buckets_plot.h"
#include "worker/train/report.h"

namespace mf {
namespace {

struct BucketsFlags {
  std::vector<std::string> pservers;
  std::string keys, svg;
  bool tables = false, json = false;
};

/// Everything that server 0 has counted, at one time per layer.
struct Cluster {
  uint64_t step = 0;  // finished
  std::vector<LayerHits> layers;
};

Result<Reply> Ask(Client& client, Request request) {
  Client::Outcome outcome = client.Call(0, std::move(request)).get();
  if (!outcome.ok()) return outcome.status();
  return std::move((*outcome)[0]);
}

Result<Cluster> AskCluster(const std::vector<std::string>& pservers, const std::string& folder) {
  constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
  MF_ASSIGN_OR_RETURN(const auto connection, Connect({pservers[0]}, folder, kDeadlineSeconds));
  Client& client = *connection->client;
  const HelloRequest observer{.shards = static_cast<uint32_t>(pservers.size())};
  MF_ASSIGN_OR_RETURN(const Reply joined, Ask(client, {.body = observer}));
  const HelloReply& hello = As<HelloReply>(joined);
  client.SetSession(0, hello.session);
  MF_ASSIGN_OR_RETURN(const RunDescription run, RunDescription::FromJson(hello.state.description));
  Cluster cluster;
  cluster.step = hello.state.finished.step;
  for (const TensorSpec& tensor : run.tensors) {
    if (tensor.kind != TensorKind::kMemory) continue;
    MF_ASSIGN_OR_RETURN(const Reply reply, Ask(client, {.body = BucketsRequest{tensor.id}}));
    LayerHits layer{tensor.layer(), std::vector<TableBuckets>(static_cast<size_t>(tensor.tables))};
    const size_t bytes = layer.tables.size() * sizeof(TableBuckets);
    if (reply.payload.size() != 1 || reply.payload[0].size() != bytes) {
      return Status::Failed("server 0 (" + pservers[0] + "): a buckets reply of the wrong size");
    }
    std::memcpy(layer.tables.data(), reply.payload[0].data(), bytes);
    cluster.step = As<BucketsReply>(reply).step;
    cluster.layers.push_back(std::move(layer));
  }
  return cluster;
}

std::string Json(const Cluster& cluster) {
  nlohmann::ordered_json json;
  json["step"] = cluster.step;
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerHits& layer : cluster.layers) {
    nlohmann::ordered_json tables = nlohmann::ordered_json::array();
    for (const TableBuckets& t : layer.tables) {
      tables.push_back({{"rows", t.rows},
                        {"hits", t.hits},
                        {"coverage_ratio", t.coverage_ratio()},
                        {"entropy_ratio", t.entropy_ratio()},
                        {"top1_ratio", t.top1_ratio()},
                        {"dead", t.dead},
                        {"bins", std::vector<uint64_t>(std::begin(t.bins), std::end(t.bins))}});
    }
    json["layers"].push_back({{"layer", layer.name}, {"tables", std::move(tables)}});
  }
  return json.dump();
}

void PrintTable(const Cluster& cluster, bool each) {
  std::printf("step %llu; coverage: of the last %llu steps; mean / worst table\n",
              static_cast<unsigned long long>(cluster.step),
              static_cast<unsigned long long>(kCoverageSteps));
  std::printf("%-18s %6s %10s %14s %15s %15s %15s %10s\n", "layer", "tables", "rows", "hits",
              "coverage", "entropy", "top1", "dead rows");
  for (const LayerHits& layer : cluster.layers) {
    const LayerBuckets s = SummariseLayer(layer.tables);
    std::printf("%-18s %6llu %10llu %14llu %7.4f/%7.4f %7.4f/%7.4f %7.4f/%7.4f %10llu\n",
                layer.name.c_str(), static_cast<unsigned long long>(s.tables),
                static_cast<unsigned long long>(s.rows), static_cast<unsigned long long>(s.hits),
                s.coverage.mean, s.coverage.worst, s.entropy.mean, s.entropy.worst, s.top1.mean,
                s.top1.worst, static_cast<unsigned long long>(s.dead_rows));
    for (size_t k = 0; each && k < layer.tables.size(); ++k) {
      const TableBuckets& t = layer.tables[k];
      std::printf("  table %-9zu %7s %10llu %14llu %15.4f %15.4f %15.4f %10llu\n", k, "",
                  static_cast<unsigned long long>(t.rows), static_cast<unsigned long long>(t.hits),
                  t.coverage_ratio(), t.entropy_ratio(), t.top1_ratio(),
                  static_cast<unsigned long long>(t.dead));
    }
  }
}

Status Run(const BucketsFlags& flags) {
  if (!flags.svg.empty())
    MF_RETURN_IF_ERROR(CheckExportPlace("--svg", flags.svg, OutputKind::kPlot));
  MF_ASSIGN_OR_RETURN(const Cluster cluster, AskCluster(flags.pservers, flags.keys));
  if (cluster.layers.empty()) {
    return Status::Failed("this training has no memory layers");
  }
  if (!flags.svg.empty()) {
    MF_RETURN_IF_ERROR(PublishFile(flags.svg, BucketsSvg(cluster.step, cluster.layers)));
  }
  if (flags.json) {
    std::printf("%s\n", Json(cluster).c_str());
  } else {
    PrintTable(cluster, flags.tables);
  }
  return Status::Ok();
}

}  // namespace

void AddBucketsCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<BucketsFlags>();
  CLI::App* command =
      app.add_subcommand("buckets", "How evenly a running cluster's training hits its tables");
  AddServersOption(*command, &flags->pservers,
                   "of all servers in shard order; the first one is asked")
      ->required();
  command->add_option("--keys", flags->keys, "Folder with client.key and server.pub");
  command->add_flag("--tables", flags->tables, "Every table, too");
  command->add_option("--svg", flags->svg, "Also draw hits by bucket, as the paper's figure 4");
  command->add_flag("--json", flags->json, "One JSON object with every table and its 64 bins");
  command->callback([flags, exit_code] { *exit_code = Report(Run(*flags)); });
}

}  // namespace mf
