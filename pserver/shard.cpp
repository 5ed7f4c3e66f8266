#include "pserver/shard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>
#include <random>

#include "common/bf16.h"

namespace mf {
namespace {

constexpr uint64_t kRowsPerReply = 1 << 22;
constexpr uint64_t kBytesPerReply = 1ull << 30;
constexpr size_t kSessionsMax = 65536;

Status Bad(const std::string& what) { return Status::Invalid(what); }

Status CheckFrame(const Request& request, size_t frame, uint64_t bytes, const char* name) {
  if (request.payload[frame].size() == bytes) return Status::Ok();
  return Bad(std::string(name) + " frame has " + std::to_string(request.payload[frame].size()) +
             " bytes, " + std::to_string(bytes) + " are due");
}

Status CheckFrames(const Request& request, size_t count) {
  if (request.payload.size() == count) return Status::Ok();
  return Bad(std::to_string(request.payload.size()) + " payload frames, " + std::to_string(count) +
             " are due");
}

/// f32 from a wire frame: itself, or unpacked from bf16.
Frame ToF32(const Frame& frame, size_t count, Wire wire) {
  if (wire == Wire::kF32) return frame;
  Buffer buffer(count * sizeof(float));
  UnpackBf16(buffer.as<float>(), frame.data(), count);
  return buffer;
}

Frame FromF32(const Buffer& values, size_t count, Wire wire) {
  if (wire == Wire::kF32) return values;
  Buffer buffer(count * sizeof(uint16_t));
  PackBf16(buffer.data(), values.as<float>(), count);
  return buffer;
}

/// Dense tensors are held whole: refused before the machine runs out of memory over them.
Status CheckDenseMemory(const Config& config) {
  double bytes = 0;
  for (const TensorSpec& tensor : TensorsOf(config)) {
    if (tensor.kind != TensorKind::kDense) continue;
    constexpr double kPlanes = 4;  // w, m, v and the gradient
    bytes += kPlanes * sizeof(float) * static_cast<double>(tensor.total_rows()) *
             static_cast<double>(tensor.columns);
  }
  const double limit = static_cast<double>(PhysicalMemoryBytes());
  if (bytes <= limit) return Status::Ok();
  return Bad("the dense tensors of this model need " + std::to_string(bytes / 1e9) +
             " GB, this server's machine has " + std::to_string(limit / 1e9) + " GB");
}

/// What is different in the run that `theirs` (CanonicalJson) describes.
std::string WhyAnotherRun(const Config& ours, const std::string& theirs) {
  const Result<Config> config = ConfigFromJson(theirs);
  std::string difference =
      config.ok() ? DescribeDifference(ours, config.value()) : config.status().message();
  if (difference.empty()) difference = "the same configuration on other data";
  return "this server runs another training: " + difference +
         "; use the same --config, --set and --data, or servers of your own";
}

}  // namespace

struct Shard::Run {
  explicit Run(Config c)
      : config(std::move(c)),
        canonical(CanonicalJson(config)),
        specs(TensorsOf(config)),
        optimizer(config.train),
        history(config.train.weight_decay) {}

  uint64_t micro_batches() const { return static_cast<uint64_t>(config.train.micro_batches); }
  bool AllIn() const {
    return std::all_of(tensors.begin(), tensors.end(),
                       [&](const auto& t) { return t->watermark() == micro_batches(); });
  }

  const Config config;
  const std::string canonical;
  std::string id;
  const std::vector<TensorSpec> specs;
  const Optimizer optimizer;
  UpdateHistory history;
  RequestScratch scratch;
  std::vector<std::unique_ptr<TensorShard>> tensors;
  Reply prepared;  // kept until the next step is prepared
};

Shard::Shard(const Options& options, ThreadPool& pool, Send send)
    : options_(options), pool_(pool), send_(std::move(send)) {}

Shard::~Shard() = default;

void Shard::Handle(const std::string& peer, const Request& request, double now) {
  Reply reply;
  bool answered = false;
  Status status;
  try {
    status = Dispatch(peer, request, now, &reply, &answered);
  } catch (const std::bad_alloc&) {
    status = Status::Failed(
        std::string(OpName(request.op)) +
        ": the server has not enough memory for it; use more servers or a smaller model");
  }
  if (!status.ok() || !answered) Answer(peer, request, status, std::move(reply));
}

void Shard::Answer(const std::string& peer, const Request& request, const Status& status,
                   Reply reply) {
  if (!status.ok()) {
    reply = Reply();
    reply.code = status.code();
    reply.message = status.message();
    if (status.code() == Code::kInvalid || status.code() == Code::kNotJoined) ++rejected_;
  }
  reply.id = request.id;
  reply.incarnation = options_.incarnation;
  send_(peer, std::move(reply));
}

Status Shard::Dispatch(const std::string& peer, const Request& request, double now, Reply* reply,
                       bool* answered) {
  if (request.op == Op::kHello) return Hello(request, reply);
  if (!sessions_.contains(request.session)) {
    return {Code::kNotJoined,
            std::string(OpName(request.op)) + " without a joined session; say hello"};
  }
  MF_CHECK(run_ != nullptr);
  switch (request.op) {
    case Op::kHello:
      break;
    case Op::kStatus:
      return DoStatus(request, reply);
    case Op::kRollback:
      return Rollback(request);
    case Op::kPull:
      return Pull(request, reply);
    case Op::kListRows:
      return ListRows(request, reply);
    case Op::kForward:
      return Forward(request, reply);
    case Op::kBackward:
      return Backward(peer, request, reply, answered);
    case Op::kPush:
      return Push(peer, request, reply, answered);
    case Op::kPrepare:
      return Prepare(request, reply);
    case Op::kApply:
      return Finish(request, Ended::kApplied, reply);
    case Op::kDrop:
      return Finish(request, Ended::kDropped, reply);
    case Op::kLease:
    case Op::kRenew:
    case Op::kMicroBatchDone:
    case Op::kStepEnded:
    case Op::kEvaluated:
    case Op::kGiveBack:
    case Op::kRecovered:
      if (desk_ != nullptr) return desk_->Handle(peer, request, now, answered);
      return Bad("the work board is on shard 0, this is shard " + std::to_string(options_.shard));
  }
  return Bad("unknown operation");
}

Status Shard::Hello(const Request& request, Reply* reply) {
  if (request.protocol != kProtocolVersion) {
    return Bad("protocol " + std::to_string(request.protocol) + ", this server speaks " +
               std::to_string(kProtocolVersion));
  }
  if (request.shard != options_.shard || request.shards != options_.shards) {
    return Bad("asked for shard " + std::to_string(request.shard) + " of " +
               std::to_string(request.shards) + ", this is shard " +
               std::to_string(options_.shard) + " of " + std::to_string(options_.shards));
  }
  if (run_ == nullptr) {
    MF_ASSIGN_OR_RETURN(Config config, ConfigFromJson(request.text));
    MF_RETURN_IF_ERROR(CheckShards(config, TensorsOf(config), options_.shards));
    MF_RETURN_IF_ERROR(CheckDenseMemory(config));
    run_ = std::make_unique<Run>(std::move(config));
    run_->id = request.run_id;
    if (options_.shard == 0) {
      desk_ = std::make_unique<BoardDesk>(run_->config, options_.boot_count,
                                          [this](const std::string& peer, Reply answer) {
                                            answer.incarnation = options_.incarnation;
                                            send_(peer, std::move(answer));
                                          });
    }
  } else if (run_->id != request.run_id) {
    return {Code::kWrongRun, WhyAnotherRun(run_->config, request.text)};
  }
  reply->session = NewSession();
  return DoStatus(request, reply);
}

/// Sessions can not be guessed; the oldest are forgotten, and their workers say hello again.
uint64_t Shard::NewSession() {
  std::random_device random;
  const uint64_t session = uint64_t{random()} << 32 | random();
  sessions_.insert(session);
  session_order_.push_back(session);
  if (session_order_.size() > kSessionsMax) {
    sessions_.erase(session_order_.front());
    session_order_.pop_front();
  }
  return session;
}

Status Shard::DoStatus(const Request&, Reply* reply) {
  reply->epoch = commit_.epoch();
  reply->step = commit_.finished();
  reply->text = run_->canonical;
  return Status::Ok();
}

Status Shard::Rollback(const Request& request) {
  if (request.step != 0) {
    return Bad("rollback to step " + std::to_string(request.step) +
               ": there is no such state here");
  }
  MF_ASSIGN_OR_RETURN(const auto action, commit_.Rollback(request.epoch, request.step));
  if (action == CommitState::Action::kDo) BuildTables();
  return Status::Ok();
}

void Shard::BuildTables() {
  // What fits the budget is addressed directly, the smallest tensors first (DESIGN 2.8).
  run_->tensors.clear();  // and stays so if memory runs out below: then the server is unavailable
  run_->history.Truncate(0);
  run_->prepared = Reply();
  const Config& config = run_->config;
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : run_->specs) {
    layouts.push_back(LayoutOf(spec, config.model.column_blocks, options_.shard, options_.shards));
  }
  const auto state_bytes = [&](size_t i) {
    // Gradients of a step can hit every row, too.
    return Table::DirectBytes(layouts[i], run_->optimizer, layouts[i].spec.total_rows()) +
           layouts[i].spec.total_rows() * layouts[i].stride * sizeof(float);
  };
  std::vector<size_t> by_size(layouts.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return state_bytes(a) < state_bytes(b); });
  std::vector<Table::Storage> storage(layouts.size(), Table::Storage::kSparse);
  uint64_t left = options_.memory_bytes;
  // Dense tensors are read and written whole: direct whatever the budget is.
  for (const size_t i : by_size) {
    if (layouts[i].spec.kind != TensorKind::kDense) continue;
    storage[i] = Table::Storage::kDirect;
    left -= std::min(left, state_bytes(i));
  }
  for (const size_t i : by_size) {
    if (storage[i] == Table::Storage::kDirect) continue;
    if (state_bytes(i) > left) break;
    storage[i] = Table::Storage::kDirect;
    left -= state_bytes(i);
  }
  std::vector<std::unique_ptr<TensorShard>> tensors;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const TensorShard::Options options{config.model.probes, config.model.seed, storage[i]};
    tensors.push_back(std::make_unique<TensorShard>(std::move(layouts[i]), options, run_->optimizer,
                                                    pool_, run_->scratch));
  }
  run_->tensors = std::move(tensors);
}

Status Shard::CheckTensor(const Request& request, TensorKind kind, TensorShard** tensor) {
  if (request.tensor >= run_->specs.size()) {
    return Bad("tensor " + std::to_string(request.tensor) + " of " +
               std::to_string(run_->specs.size()));
  }
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  *tensor = run_->tensors[request.tensor].get();
  if (kind == TensorKind::kMemory && run_->specs[request.tensor].kind != kind) {
    return Bad(run_->specs[request.tensor].name + " is not a memory tensor");
  }
  return Status::Ok();
}

/// Readers outside a training step name the finished step they want to see: the state must be at
/// it.
Status Shard::CheckReadStep(const Request& request) const {
  return commit_.Admit(request.epoch, request.training ? request.step : request.step + 1);
}

Status Shard::ReadBuckets(const Request& request, TensorShard& tensor,
                          std::vector<uint32_t>* buckets) {
  const TensorSpec& spec = tensor.layout().spec;
  // A micro-batch is the most that any message is about; evaluation uses no more.
  const uint64_t most = static_cast<uint64_t>(run_->config.tokens_per_micro_batch());
  if (request.tokens == 0 || request.tokens > most) {
    return Bad(std::to_string(request.tokens) + " tokens; 1 to " + std::to_string(most) +
               " are allowed");
  }
  const size_t count = tensor.pairs() * request.tokens;
  const size_t index_bytes = static_cast<size_t>(spec.index_bytes());
  MF_RETURN_IF_ERROR(CheckFrame(request, 0, count * index_bytes, "index"));
  MF_RETURN_IF_ERROR(CheckFrame(request, 1, count * sizeof(float), "weight"));
  buckets->resize(count);
  const std::byte* data = request.payload[0].data();
  uint32_t any = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bucket = 0;
    switch (index_bytes) {
      case 1:
        bucket = LoadUnaligned<uint8_t>(data, i);
        break;
      case 2:
        bucket = LoadUnaligned<uint16_t>(data, i);
        break;
      default:
        bucket = LoadUnaligned<uint32_t>(data, i);
    }
    (*buckets)[i] = bucket;
    any |= bucket;
  }
  // rows is a power of two: one bit beyond it in any index is one index out of range.
  if (any >= static_cast<uint64_t>(spec.rows))
    return Bad("a bucket index of " + spec.name + " is out of range");
  return Status::Ok();
}

/// Contributions that wait for earlier ones are bounded by the window, as the board bounds its
/// leases.
Status Shard::CheckMicroBatch(const Request& request, const TensorShard& tensor) const {
  if (request.micro_batch >= run_->micro_batches()) {
    return Bad("micro-batch " + std::to_string(request.micro_batch) + " of " +
               std::to_string(run_->micro_batches()));
  }
  if (request.micro_batch >=
      tensor.watermark() + static_cast<uint64_t>(run_->config.train.window)) {
    return {Code::kNotYet, "micro-batch " + std::to_string(request.micro_batch) +
                               " is beyond the window of " +
                               std::to_string(run_->config.train.window)};
  }
  return Status::Ok();
}

Status Shard::Forward(const Request& request, Reply* reply) {
  MF_RETURN_IF_ERROR(CheckReadStep(request));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(CheckTensor(request, TensorKind::kMemory, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(request, 2));
  std::vector<uint32_t> buckets;
  MF_RETURN_IF_ERROR(ReadBuckets(request, *tensor, &buckets));
  const size_t count = request.tokens * tensor->layout().width();
  Buffer y(count * sizeof(float));
  tensor->Forward(buckets, request.payload[1].data(), request.tokens, request.training,
                  run_->history, y.as<float>());
  reply->payload = {FromF32(y, count, run_->config.exchange.wire)};
  return Status::Ok();
}

Status Shard::Backward(const std::string& peer, const Request& request, Reply* reply,
                       bool* answered) {
  MF_RETURN_IF_ERROR(commit_.Admit(request.epoch, request.step));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(CheckTensor(request, TensorKind::kMemory, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(request, 4));
  MF_RETURN_IF_ERROR(CheckMicroBatch(request, *tensor));
  Contribution c;
  MF_RETURN_IF_ERROR(ReadBuckets(request, *tensor, &c.buckets));
  const size_t count = request.tokens * tensor->layout().width();
  const Wire wire = run_->config.exchange.wire;
  MF_RETURN_IF_ERROR(CheckFrame(request, 2, count * (wire == Wire::kBf16 ? 2 : 4), "gradient"));
  MF_RETURN_IF_ERROR(CheckFrame(request, 3, request.tokens, "exponent"));
  c.tokens = request.tokens;
  c.weights = request.payload[1];
  c.dy = ToF32(request.payload[2], count, wire);
  const int8_t* exponents = request.payload[3].as<int8_t>();
  Buffer dots(c.buckets.size() * sizeof(int64_t));
  tensor->Dots(c.buckets, c.weights.data(), c.tokens, c.dy.data(), exponents, run_->history,
               dots.as<int64_t>());
  reply->payload = {Frame(dots)};
  // The worker goes on with dL/dp while the row gradients are summed.
  Answer(peer, request, Status::Ok(), std::move(*reply));
  *answered = true;
  if (!tensor->Wants(request.micro_batch)) return Status::Ok();
  c.finite =
      AllFinite(c.weights.data(), c.buckets.size()) && AllFinite(c.dy.data(), count) &&
      std::find(exponents, exponents + request.tokens, kNotFinite) == exponents + request.tokens;
  tensor->Contribute(request.micro_batch, std::move(c));
  return Status::Ok();
}

Status Shard::Push(const std::string& peer, const Request& request, Reply* reply, bool* answered) {
  MF_RETURN_IF_ERROR(commit_.Admit(request.epoch, request.step));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(CheckTensor(request, TensorKind::kDense, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(request, 3));
  MF_RETURN_IF_ERROR(CheckMicroBatch(request, *tensor));
  Contribution c;
  c.is_push = true;
  const Frame& ids = request.payload[0];
  if (ids.size() % sizeof(uint64_t) != 0) return Bad("row frame is not whole");
  c.rows.resize(ids.size() / sizeof(uint64_t));
  if (!c.rows.empty()) std::memcpy(c.rows.data(), ids.data(), ids.size());
  const uint64_t total = tensor->layout().spec.total_rows();
  for (size_t i = 0; i < c.rows.size(); ++i) {
    if (c.rows[i] >= total || (i > 0 && c.rows[i] <= c.rows[i - 1])) {
      return Bad("rows of " + tensor->layout().spec.name + " must rise and stay below " +
                 std::to_string(total));
    }
  }
  const bool whole = c.rows.empty() && request.row_count != 0;  // row_count = total: all rows
  if (whole && request.row_count != total) return Bad("row count of a whole push");
  const uint64_t rows = whole ? total : c.rows.size();
  const size_t hits = request.payload[1].size();
  if (hits != 0 && hits != rows * sizeof(uint32_t)) return Bad("hit frame of the wrong size");
  const size_t count = rows * tensor->layout().width();
  MF_RETURN_IF_ERROR(CheckFrame(request, 2, count * sizeof(float), "value"));
  Answer(peer, request, Status::Ok(), std::move(*reply));
  *answered = true;
  if (!tensor->Wants(request.micro_batch)) return Status::Ok();
  c.values = request.payload[2];
  c.finite = AllFinite(c.values.data(), count);
  c.whole = whole;
  tensor->Contribute(request.micro_batch, std::move(c));
  return Status::Ok();
}

Status Shard::Pull(const Request& request, Reply* reply) {
  MF_RETURN_IF_ERROR(CheckReadStep(request));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(CheckTensor(request, TensorKind::kDense, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(request, 1));
  const uint64_t total = tensor->layout().spec.total_rows();
  const size_t width = tensor->layout().width();
  const Frame& ids = request.payload[0];
  const uint64_t count = ids.size() > 0 ? ids.size() / sizeof(uint64_t) : request.row_count;
  if (ids.size() % sizeof(uint64_t) != 0 || count > total ||
      count * width * sizeof(float) > kBytesPerReply) {
    return Bad("pull of " + std::to_string(count) + " rows of " + tensor->layout().spec.name);
  }
  std::vector<uint64_t> rows(count);
  if (ids.size() > 0) {
    std::memcpy(rows.data(), ids.data(), ids.size());
    for (size_t i = 0; i < count; ++i) {
      if (rows[i] >= total || (i > 0 && rows[i] <= rows[i - 1])) {
        return Bad("rows of " + tensor->layout().spec.name + " must rise and stay below " +
                   std::to_string(total));
      }
    }
  } else {
    if (request.first_row > total - count)
      return Bad("rows beyond the end of " + tensor->layout().spec.name);
    std::iota(rows.begin(), rows.end(), request.first_row);
  }
  Buffer values(count * width * sizeof(float));
  tensor->Pull(rows, request.training, run_->history, values.as<float>());
  reply->payload = {Frame(values)};
  return Status::Ok();
}

Status Shard::ListRows(const Request& request, Reply* reply) {
  MF_RETURN_IF_ERROR(CheckReadStep(request));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(CheckTensor(request, TensorKind::kDense, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(request, 0));
  const std::vector<uint64_t> rows =
      tensor->UpdatedRows(request.first_row, std::min(request.row_count, kRowsPerReply));
  Buffer buffer(rows.size() * sizeof(uint64_t));
  if (!rows.empty()) std::memcpy(buffer.data(), rows.data(), buffer.size());
  reply->payload = {Frame(buffer)};
  return Status::Ok();
}

Status Shard::Prepare(const Request& request, Reply* reply) {
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  MF_ASSIGN_OR_RETURN(const auto action,
                      commit_.Prepare(request.epoch, request.step, run_->AllIn()));
  if (action == CommitState::Action::kDo) {
    run_->prepared = Reply();
    std::vector<double> squares;
    for (const auto& tensor : run_->tensors) {
      tensor->Prepare(&squares);
      if (!tensor->finite() && run_->prepared.text.empty()) {
        run_->prepared.text = tensor->layout().spec.name;
      }
    }
    Buffer buffer(squares.size() * sizeof(double));
    std::memcpy(buffer.data(), squares.data(), buffer.size());
    run_->prepared.payload = {Frame(buffer)};
  }
  *reply = run_->prepared;
  return Status::Ok();
}

Status Shard::Finish(const Request& request, Ended how, Reply* reply) {
  const auto fits_float = [](double x) { return std::abs(x) <= std::numeric_limits<float>::max(); };
  if (how == Ended::kApplied && !(fits_float(request.lr) && fits_float(request.scale))) {
    return Bad("apply with a rate or scale that is not a finite float");
  }
  MF_ASSIGN_OR_RETURN(const auto end, commit_.Finish(request.epoch, request.step, how));
  if (end.action == CommitState::Action::kDo) {
    if (how == Ended::kApplied) {
      for (const auto& tensor : run_->tensors) {
        tensor->Apply(run_->history, request.lr, static_cast<float>(request.scale));
      }
      run_->history.Append(request.lr);
    } else {
      for (const auto& tensor : run_->tensors) tensor->ForgetStep();
    }
  }
  reply->applied = end.ended == Ended::kApplied;
  return Status::Ok();
}

void Shard::Tick(double now) {
  if (desk_ != nullptr) desk_->Tick(now);
}

}  // namespace mf
