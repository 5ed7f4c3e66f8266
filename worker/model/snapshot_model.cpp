#include "worker/model/snapshot_model.h"

#include <utility>

namespace mf {

Result<std::unique_ptr<SnapshotModel>> SnapshotModel::Open(const std::string& dir, int threads) {
  std::unique_ptr<SnapshotModel> model(new SnapshotModel());
  EmbeddedServers::SnapshotsFound found;
  MF_ASSIGN_OR_RETURN(model->servers_,
                      EmbeddedServers::StartOnSnapshots(model->context_, dir, threads, &found));
  MF_ASSIGN_OR_RETURN(model->config_, ConfigFromJson(found.config));
  model->tensors_ = TensorsOf(model->config_);
  const std::vector<std::string>& addresses = model->servers_->addresses();
  MF_ASSIGN_OR_RETURN(auto transport, ConnectZmq(model->context_, addresses));
  constexpr double kDeadlineSeconds =
      3600;  // everything is in this process: only reading takes time
  model->client_ = std::make_unique<Client>(std::move(transport), addresses,
                                            Client::Options{.deadline_seconds = kDeadlineSeconds});
  model->tables_ = std::make_unique<TableClient>(*model->client_, model->config_, model->tensors_);
  if (const Status status = model->GoTo(found.run_id, found.step); !status.ok()) {
    return Status::Failed(dir + ": " + status.message());
  }
  return model;
}

Status SnapshotModel::GoTo(const std::string& run_id, uint64_t step) {
  std::vector<Request> hellos(client_->servers());
  for (size_t server = 0; server < hellos.size(); ++server) {
    hellos[server].op = Op::kHello;
    hellos[server].shard = static_cast<uint32_t>(server);
    hellos[server].shards = static_cast<uint32_t>(hellos.size());
    hellos[server].run_id = run_id;
    hellos[server].text = CanonicalJson(config_);
  }
  Client::Outcome joined = client_->CallAll(std::move(hellos)).get();
  if (!joined.ok()) return joined.status();
  for (size_t server = 0; server < joined->size(); ++server) {
    client_->SetSession(server, (*joined)[server].session);
  }
  Request rollback;
  rollback.op = Op::kRollback;
  rollback.epoch = 1;
  rollback.step = step;
  at_ = {1, step};
  return client_->CallAll(std::vector<Request>(client_->servers(), rollback)).get().status();
}

Result<DenseTensors> SnapshotModel::Dense() {
  DenseTensors dense(tensors_.size());
  for (const TensorSpec& tensor : tensors_) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.total_rows() * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(
        tables_->PullRange(at_, tensor, 0, tensor.total_rows(), values.data()).Wait());
  }
  return dense;
}

}  // namespace mf
