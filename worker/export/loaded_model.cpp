#include "worker/export/loaded_model.h"

#include <utility>

#include "worker/config/tensors.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {

Status LoadedModel::ReadConfig(const std::string& config_file) {
  const std::string& json = file_->config_json();
  if (json.empty() && config_file.empty()) {
    return Status::Invalid(file_->path() +
                           ": has no __metadata__.config: `worker export` writes one, other "
                           "programs drop it; eval, score, generate and tasks are told by "
                           "--config FILE which model it is");
  }
  if (!json.empty()) {
    auto config = ConfigFromJson(json);
    if (!config.ok()) {
      return Status::Invalid(file_->path() + ": __metadata__.config: " + config.status().message());
    }
    config_ = std::move(config).value();
  }
  if (config_file.empty()) return Status::Ok();
  MF_ASSIGN_OR_RETURN(Config given, LoadConfig(config_file, {}));
  if (json.empty()) {
    MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Open(given.data.tokenizer));
    config_.tokenizer = tokenizer->content();
  }
  given.tokenizer = config_.tokenizer;
  if (!json.empty() && ModelJson(given) != ModelJson(config_)) {
    return Status::Invalid(file_->path() + ": describes another model than --config " +
                           config_file + "; leave --config out");
  }
  config_.model = given.model;
  return Status::Ok();
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::Open(const std::string& path,
                                                       const std::string& config_file) {
  std::unique_ptr<LoadedModel> model(new LoadedModel);
  MF_ASSIGN_OR_RETURN(model->file_, SafetensorsReader::Open(path));
  MF_RETURN_IF_ERROR(model->ReadConfig(config_file));
  model->tensors_ = TensorsOf(model->config_);
  MF_RETURN_IF_ERROR(model->file_->CheckTensors(model->tensors_));
  DenseTensors dense(model->tensors_.size());
  model->tables_.resize(model->tensors_.size());
  for (const TensorSpec& spec : model->tensors_) {
    const SafetensorsReader::Tensor& tensor = *model->file_->Find(spec.name);
    const bool table = spec.kind == TensorKind::kMemory;
    if (table && tensor.f32() != nullptr) {
      model->tables_[spec.id] = tensor.f32();
      continue;
    }
    std::vector<float> values(tensor.numbers());
    tensor.CopyF32(values.data());
    if (table) {
      model->tables_[spec.id] = model->copies_.emplace_back(std::move(values)).data();
    } else {
      dense[spec.id].assign(values.begin(), values.end());
    }
  }
  model->dense_ = std::make_shared<const DenseTensors>(std::move(dense));
  return model;
}

}  // namespace mf
