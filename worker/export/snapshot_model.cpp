#include "worker/export/snapshot_model.h"

#include <utility>

#include "common/client/membership.h"

namespace mf {

Result<std::unique_ptr<SnapshotModel>> SnapshotModel::Open(const std::string& dir, int threads) {
  std::unique_ptr<SnapshotModel> model(new SnapshotModel());
  EmbeddedServers::SnapshotsFound found;
  MF_ASSIGN_OR_RETURN(model->servers_,
                      EmbeddedServers::StartOnSnapshots(model->context_, dir, threads, &found));
  MF_ASSIGN_OR_RETURN(model->run_, RunDescription::FromJson(found.description));
  Result<Config> config = ConfigOf(model->run_);
  if (!config.ok()) return Status::Invalid(dir + ": " + config.status().message());
  model->config_ = std::move(config).value();
  const std::vector<std::string>& addresses = model->servers_->addresses();
  MF_ASSIGN_OR_RETURN(auto transport, ConnectZmq(model->context_, addresses));
  constexpr double kDeadlineSeconds =
      3600;  // everything is in this process: only reading takes time
  model->client_ = std::make_unique<Client>(std::move(transport), addresses,
                                            Client::Options{.deadline_seconds = kDeadlineSeconds});
  model->tables_ = std::make_unique<TableClient>(*model->client_, model->run_);
  if (const Status status = model->GoTo(found.step); !status.ok()) {
    return Status::Failed(dir + ": " + status.message());
  }
  return model;
}

Status SnapshotModel::GoTo(uint64_t step) {
  Membership membership(run_.Json(), client_->servers());
  const Client::Outcome joined = client_->CallAll(membership.Hellos()).get();
  if (!joined.ok()) return joined.status();
  for (size_t server = 0; server < joined.value().size(); ++server) {
    client_->SetSession(server, As<HelloReply>(joined.value()[server]).session);
  }
  at_ = {1, step};
  const Request rollback{.body = RollbackRequest{.to = at_}};
  return client_->CallAll(std::vector<Request>(client_->servers(), rollback)).get().status();
}

Result<DenseTensors> SnapshotModel::Dense() {
  DenseTensors dense(tensors().size());
  for (const TensorSpec& tensor : tensors()) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.total_rows() * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(
        tables_->PullRange(at_, tensor, 0, tensor.total_rows(), values.data()).Wait());
  }
  return dense;
}

}  // namespace mf
