#include "worker/export/loaded_model.h"

#include <utility>

#include "worker/config/tensors.h"

namespace mf {

Result<std::unique_ptr<LoadedModel>> LoadedModel::Open(const std::string& path) {
  std::unique_ptr<LoadedModel> model(new LoadedModel);
  MF_ASSIGN_OR_RETURN(model->file_, SafetensorsReader::Open(path));
  if (model->file_->config_json().empty()) {
    return Status::Invalid(path + ": has no __metadata__.config; `worker export` writes one");
  }
  auto config = ConfigFromJson(model->file_->config_json());
  if (!config.ok()) {
    return Status::Invalid(path + ": __metadata__.config: " + config.status().message());
  }
  model->config_ = std::move(config).value();
  model->tensors_ = TensorsOf(model->config_);
  MF_RETURN_IF_ERROR(model->file_->CheckTensors(model->tensors_));
  DenseTensors dense(model->tensors_.size());
  model->tables_.resize(model->tensors_.size());
  for (const TensorSpec& spec : model->tensors_) {
    const SafetensorsReader::Tensor& tensor = *model->file_->Find(spec.name);
    const float* data = tensor.f32();
    if (spec.kind == TensorKind::kMemory) {
      model->tables_[spec.id] = data;
    } else {
      dense[spec.id].assign(data, data + tensor.bytes / sizeof(float));
    }
  }
  model->dense_ = std::make_shared<const DenseTensors>(std::move(dense));
  return model;
}

}  // namespace mf
