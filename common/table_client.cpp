#include "common/table_client.h"

#include <bit>
#include <cstring>
#include <memory>

#include "common/bf16.h"
#include "common/kernels/pairs.h"
#include "common/sharding.h"

namespace mf {
namespace {

Frame CopyToFrame(const void* data, size_t bytes) {
  Buffer buffer(bytes);
  if (bytes > 0) std::memcpy(buffer.data(), data, bytes);
  return buffer;
}

/// Columns `range` of a [rows][columns] matrix, packed for the wire.
Frame PackColumns(const float* values, size_t rows, size_t columns, ColumnRange range, Wire wire) {
  const size_t width = static_cast<size_t>(range.size());
  Buffer buffer(rows * width * (wire == Wire::kBf16 ? 2 : 4));
  for (size_t row = 0; row < rows; ++row) {
    const float* from = values + row * columns + range.begin;
    if (wire == Wire::kBf16) {
      PackBf16(buffer.data() + row * width * 2, from, width);
    } else {
      std::memcpy(buffer.data() + row * width * 4, from, width * 4);
    }
  }
  return buffer;
}

Status WrongReply(const TensorSpec& tensor, size_t server) {
  return Status::Failed("server " + std::to_string(server) + " answered for " + tensor.name +
                        " with a frame of the wrong size");
}

}  // namespace

Status Pending::Wait() {
  Client::Outcome outcome = answer_.get();
  if (!outcome.ok()) return outcome.status();
  return finish_ ? finish_(*outcome) : Status::Ok();
}

TableClient::TableClient(Client& client, const Config& config,
                         const std::vector<TensorSpec>& tensors)
    : client_(client), config_(config), tensors_(tensors) {
  const int64_t shards = static_cast<int64_t>(client.servers());
  for (const TensorSpec& tensor : tensors) {
    const std::vector<ColumnRange> blocks =
        ColumnBlocks(tensor.columns, config.model.column_blocks);
    columns_.emplace_back();
    blocks_.emplace_back();
    for (int64_t shard = 0; shard < shards; ++shard) {
      const BlockRange own = ShardBlocks(static_cast<int64_t>(blocks.size()), shard, shards);
      columns_.back().push_back({blocks[static_cast<size_t>(own.begin)].begin,
                                 blocks[static_cast<size_t>(own.end) - 1].end});
      blocks_.back().push_back(static_cast<size_t>(own.end - own.begin));
    }
  }
}

std::vector<Request> TableClient::Requests(Op op, StepRef at, const TensorSpec& tensor) const {
  Request request;
  request.op = op;
  request.epoch = at.epoch;
  request.step = at.step;
  request.tensor = tensor.id;
  return std::vector<Request>(servers(), request);
}

Status TableClient::Assemble(const TensorSpec& tensor, size_t rows, Wire wire,
                             const std::vector<Reply>& replies, float* out) const {
  const size_t columns = static_cast<size_t>(tensor.columns);
  const size_t bytes = wire == Wire::kBf16 ? 2 : 4;
  for (size_t server = 0; server < replies.size(); ++server) {
    const ColumnRange range = Columns(tensor, server);
    const size_t width = static_cast<size_t>(range.size());
    const std::vector<Frame>& payload = replies[server].payload;
    if (payload.size() != 1 || payload[0].size() != rows * width * bytes) {
      return WrongReply(tensor, server);
    }
    for (size_t row = 0; row < rows; ++row) {
      float* to = out + row * columns + range.begin;
      const std::byte* from = payload[0].data() + row * width * bytes;
      if (wire == Wire::kBf16) {
        UnpackBf16(to, from, width);
      } else {
        std::memcpy(to, from, width * bytes);
      }
    }
  }
  return Status::Ok();
}

Pending TableClient::Forward(StepRef at, Access access, const TensorSpec& tensor, size_t tokens,
                             const Frame& indices, const Frame& weights, float* y) {
  std::vector<Request> requests = Requests(Op::kForward, at, tensor);
  for (Request& request : requests) {
    request.tokens = static_cast<uint32_t>(tokens);
    request.training = access == Access::kTraining;
    request.payload = {indices, weights};
  }
  return {client_.CallAll(std::move(requests)),
          [this, &tensor, tokens, y](std::vector<Reply>& replies) {
            return Assemble(tensor, tokens, config_.exchange.wire, replies, y);
          }};
}

Pending TableClient::Backward(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
                              size_t tokens, const Frame& indices, const Frame& weights,
                              const float* dy, float* dweights) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  const Wire wire = config_.exchange.wire;
  Buffer exponents(tokens);
  std::vector<float> as_sent(wire == Wire::kBf16 ? columns : 0);
  for (size_t t = 0; t < tokens; ++t) {
    const float* row = dy + t * columns;
    if (wire == Wire::kBf16) {
      for (size_t c = 0; c < columns; ++c) as_sent[c] = FromBf16(ToBf16(row[c]));
      row = as_sent.data();
    }
    exponents.as<int8_t>()[t] = DotExponent(row, columns);
  }
  std::vector<Request> requests = Requests(Op::kBackward, at, tensor);
  for (size_t server = 0; server < requests.size(); ++server) {
    Request& request = requests[server];
    request.micro_batch = micro_batch;
    request.tokens = static_cast<uint32_t>(tokens);
    request.payload = {indices, weights,
                       PackColumns(dy, tokens, columns, Columns(tensor, server), wire),
                       Frame(exponents)};
  }
  const size_t pairs = weights.size() / sizeof(float) / tokens;
  const auto finish = [&tensor, tokens, pairs, exponents, dweights](std::vector<Reply>& replies) {
    const int8_t* e = exponents.as<int8_t>();
    for (size_t server = 0; server < replies.size(); ++server) {
      if (replies[server].payload.size() != 1 ||
          replies[server].payload[0].size() != pairs * tokens * sizeof(int64_t)) {
        return WrongReply(tensor, server);
      }
    }
    for (size_t p = 0; p < pairs; ++p) {
      for (size_t t = 0; t < tokens; ++t) {
        const size_t i = p * tokens + t;
        int64_t dot = LoadUnaligned<int64_t>(replies[0].payload[0].data(), i);
        for (size_t server = 1; server < replies.size(); ++server) {
          dot = AddDots(dot, LoadUnaligned<int64_t>(replies[server].payload[0].data(), i));
        }
        dweights[i] = DotValue(dot, e[t]);
      }
    }
    return Status::Ok();
  };
  return {client_.CallAll(std::move(requests)), finish};
}

Pending TableClient::PullRows(StepRef at, Access access, const TensorSpec& tensor,
                              const Frame& rows, uint64_t first, uint64_t count, float* values) {
  std::vector<Request> requests = Requests(Op::kPull, at, tensor);
  for (Request& request : requests) {
    request.training = access == Access::kTraining;
    request.first_row = first;
    request.row_count = count;
    request.payload = {rows};
  }
  return {client_.CallAll(std::move(requests)),
          [this, &tensor, count, values](std::vector<Reply>& replies) {
            return Assemble(tensor, count, Wire::kF32, replies, values);
          }};
}

Pending TableClient::Pull(StepRef at, Access access, const TensorSpec& tensor,
                          const std::vector<uint64_t>& rows, float* values) {
  const Frame ids = CopyToFrame(rows.data(), rows.size() * sizeof(uint64_t));
  return PullRows(at, access, tensor, ids, 0, rows.size(), values);
}

Pending TableClient::PullRange(StepRef at, const TensorSpec& tensor, uint64_t first, uint64_t count,
                               float* values) {
  return PullRows(at, Access::kReading, tensor, Frame(), first, count, values);
}

Pending TableClient::PushRows(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
                              const Frame& rows, const Frame& hits, uint64_t count,
                              const float* values) {
  std::vector<Request> requests = Requests(Op::kPush, at, tensor);
  for (size_t server = 0; server < requests.size(); ++server) {
    Request& request = requests[server];
    request.micro_batch = micro_batch;
    request.row_count = count;
    request.payload = {rows, hits,
                       PackColumns(values, count, static_cast<size_t>(tensor.columns),
                                   Columns(tensor, server), Wire::kF32)};
  }
  return {client_.CallAll(std::move(requests)), nullptr};
}

Pending TableClient::Push(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
                          const std::vector<uint64_t>& rows, const std::vector<uint32_t>& hits,
                          const float* values) {
  MF_CHECK(!rows.empty());
  return PushRows(at, micro_batch, tensor, CopyToFrame(rows.data(), rows.size() * sizeof(uint64_t)),
                  CopyToFrame(hits.data(), hits.size() * sizeof(uint32_t)), rows.size(), values);
}

Pending TableClient::PushWhole(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
                               const float* values) {
  return PushRows(at, micro_batch, tensor, Frame(), Frame(), tensor.total_rows(), values);
}

Result<std::vector<uint64_t>> TableClient::ListRows(StepRef at, const TensorSpec& tensor,
                                                    uint64_t first, uint64_t most) {
  Request request = Requests(Op::kListRows, at, tensor)[0];
  request.first_row = first;
  request.row_count = most;
  Client::Outcome outcome = client_.Call(0, std::move(request)).get();
  if (!outcome.ok()) return outcome.status();
  const std::vector<Frame>& payload = (*outcome)[0].payload;
  if (payload.size() != 1 || payload[0].size() % sizeof(uint64_t) != 0)
    return WrongReply(tensor, 0);
  std::vector<uint64_t> rows(payload[0].size() / sizeof(uint64_t));
  if (!rows.empty()) std::memcpy(rows.data(), payload[0].data(), payload[0].size());
  return rows;
}

Result<Prepared> TableClient::Prepare(StepRef at) {
  Client::Outcome outcome = client_.CallAll(Requests(Op::kPrepare, at, tensors_[0])).get();
  if (!outcome.ok()) return outcome.status();
  return CombinePrepared(tensors_, blocks_, *outcome);
}

Result<bool> TableClient::Finish(StepRef at, const StepEnd& end) {
  Client::Outcome outcome =
      client_.CallAll(std::vector<Request>(servers(), EndRequest(at.epoch, at.step, end))).get();
  if (!outcome.ok()) return outcome.status();
  return HowItEnded(at.step, *outcome);
}

}  // namespace mf
