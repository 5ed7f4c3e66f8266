#include "worker/model/model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "worker/model/model_pass.h"

namespace mf {
namespace {

Status CheckIds(const std::vector<uint32_t>& ids, const char* what, size_t tokens,
                uint64_t vocabulary) {
  if (ids.size() != tokens) {
    return Status::Invalid(std::string(what) + ": " + std::to_string(ids.size()) +
                           " tokens, the batch has " + std::to_string(tokens));
  }
  for (const uint32_t id : ids) {
    if (id >= vocabulary) {
      return Status::Invalid(std::string(what) + ": token " + std::to_string(id) +
                             " is outside the vocabulary of " + std::to_string(vocabulary));
    }
  }
  return Status::Ok();
}

void TakeLogprobs(const Model::Workspace::State& state, std::vector<float>* logprobs) {
  logprobs->resize(state.nll.size());
  std::transform(state.nll.begin(), state.nll.end(), logprobs->begin(),
                 [](double value) { return static_cast<float>(-value); });
}

}  // namespace

Status CheckBatch(const Config& config, const TokenBatch& batch, Targets targets) {
  if (batch.tokens() == 0 || batch.length > static_cast<size_t>(config.model.sequence)) {
    return Status::Invalid("batch of " + std::to_string(batch.sequences) + " sequences of " +
                           std::to_string(batch.length) + " tokens: the length must be 1 to " +
                           std::to_string(config.model.sequence) + " (model.sequence)");
  }
  const uint64_t vocabulary = static_cast<uint64_t>(config.model.vocabulary);
  MF_RETURN_IF_ERROR(CheckIds(batch.inputs, "inputs", batch.tokens(), vocabulary));
  if (targets == Targets::kUnused) return Status::Ok();
  return CheckIds(batch.targets, "targets", batch.tokens(), vocabulary);
}

Model::Workspace::Workspace() : state(std::make_unique<State>()) {}
Model::Workspace::~Workspace() = default;
Model::Workspace::Workspace(Workspace&&) noexcept = default;
Model::Workspace& Model::Workspace::operator=(Workspace&&) noexcept = default;

Model::Model(const Config& config, const std::vector<TensorSpec>& tensors, ThreadPool& pool)
    : config_(config),
      tensors_(tensors),
      pool_(pool),
      plan_(std::make_shared<const Plan>(config, tensors)) {}

uint32_t Model::embedding() const { return static_cast<uint32_t>(plan_->embed); }

Status Model::Train(const DenseTensors& parameters, const TokenBatch& batch, double loss_scale,
                    Exchange& exchange, Workspace& workspace, double* loss_sum,
                    DenseTensors* gradients) const {
  MF_RETURN_IF_ERROR(CheckBatch(config_, batch, Targets::kNeeded));
  gradients->resize(tensors_.size());
  Pass pass(*this, parameters, batch, exchange, workspace);
  MF_RETURN_IF_ERROR(pass.Forward());
  pass.ScoreAndBackward(loss_scale, gradients);
  *loss_sum = 0;
  for (const double nll : workspace.state->nll) *loss_sum += nll;
  return pass.Backward(gradients);
}

Status Model::Score(const DenseTensors& parameters, const TokenBatch& batch, Exchange& exchange,
                    Workspace& workspace, std::vector<float>* logprobs) const {
  MF_RETURN_IF_ERROR(CheckBatch(config_, batch, Targets::kNeeded));
  Pass pass(*this, parameters, batch, exchange, workspace);
  MF_RETURN_IF_ERROR(pass.Forward());
  pass.Score();
  TakeLogprobs(*workspace.state, logprobs);
  return Status::Ok();
}

Status Model::CheckRoom(const Context& context, size_t more) const {
  const auto most = static_cast<size_t>(config_.model.sequence);
  if (context.length() + more <= most) return Status::Ok();
  return Status::Invalid("a text of " + std::to_string(context.length() + more) +
                         " tokens: at most " + std::to_string(most) + " (model.sequence)");
}

Status Model::Extend(const DenseTensors& parameters, std::vector<uint32_t> ids, Exchange& exchange,
                     Workspace& workspace, Context* context, std::vector<float>* logits) const {
  const TokenBatch batch{
      .sequences = 1, .length = ids.size(), .inputs = std::move(ids), .targets = {}};
  MF_RETURN_IF_ERROR(CheckBatch(config_, batch, Targets::kUnused));
  MF_RETURN_IF_ERROR(CheckRoom(*context, batch.length));
  Pass pass(*this, parameters, batch, exchange, workspace, context);
  MF_RETURN_IF_ERROR(pass.Forward());
  context->length_ += batch.length;
  pass.LastLogits(logits);
  return Status::Ok();
}

Status Model::ScoreAfter(const DenseTensors& parameters, const TokenBatch& batch,
                         Exchange& exchange, Workspace& workspace, Context* context,
                         std::vector<float>* logprobs) const {
  MF_RETURN_IF_ERROR(CheckBatch(config_, batch, Targets::kNeeded));
  MF_RETURN_IF_ERROR(CheckRoom(*context, batch.length));
  Pass pass(*this, parameters, batch, exchange, workspace, context);
  MF_RETURN_IF_ERROR(pass.Forward());
  pass.Score();
  TakeLogprobs(*workspace.state, logprobs);
  return Status::Ok();
}

}  // namespace mf
