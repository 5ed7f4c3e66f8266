#include "common/client/table_client.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "common/client/client.h"
#include "common/client/lease_work.h"
#include "common/kernels/pairs.h"
#include "common/kernels/wire.h"

namespace mf {
namespace {

Frame CopyToFrame(const void* data, size_t bytes) {
  Buffer buffer(bytes);
  if (bytes > 0) std::memcpy(buffer.data(), data, bytes);
  return buffer;
}

/// Columns `range` of a [rows][columns] matrix of floats, packed for the wire: the matrix itself
/// where it is that already.
Frame PackColumns(const Frame& values, size_t rows, size_t columns, ColumnRange range, Wire wire) {
  const size_t width = static_cast<size_t>(range.size());
  if (wire == Wire::kF32 && width == columns) return values;
  const Buffer buffer(rows * width * NumberBytes(wire));
  const float* from = values.as<float>() + range.begin;
  if (wire == Wire::kBf16 && width == columns) {
    PackBf16(buffer.data(), from, rows * width);
    return buffer;
  }
  for (size_t row = 0; row < rows; ++row, from += columns) {
    std::byte* to = buffer.data() + row * width * NumberBytes(wire);
    if (wire == Wire::kBf16) {
      PackBf16(to, from, width);
    } else {
      std::memcpy(to, from, width * sizeof(float));
    }
  }
  return buffer;
}

/// The other way: rows of `width` from the wire to the columns at `out` of rows of `stride`.
void UnpackColumns(const Frame& packed, size_t rows, size_t width, size_t stride, Wire wire,
                   float* out) {
  const bool whole = width == stride;
  const size_t runs = whole ? 1 : rows, run = whole ? rows * width : width;
  for (size_t i = 0; i < runs; ++i) {
    const std::byte* from = packed.data() + i * run * NumberBytes(wire);
    if (wire == Wire::kBf16) {
      UnpackBf16(out + i * stride, from, run);
    } else {
      std::memcpy(out + i * stride, from, run * sizeof(float));
    }
  }
}

/// The same request to every server.
std::vector<Request> ToAll(size_t servers, const RequestBody& body, const Frames& payload = {}) {
  return std::vector<Request>(servers, Request{.body = body, .payload = payload});
}

Status WrongReply(const TensorSpec& tensor, size_t server) {
  return Status::Failed("server " + std::to_string(server) + " answered for " + tensor.name +
                        " with a frame of the wrong size");
}

}  // namespace

Status Pending::Wait() {
  Client::Outcome outcome = answer_.get();
  if (!outcome.ok()) return outcome.status();
  return tables_ == nullptr ? Status::Ok() : tables_->PutTogether(destination_, *outcome);
}

TableClient::TableClient(Client& client, const RunDescription& run)
    : client_(client),
      run_(run),
      shares_(SharesOf(run.tensors, run.rules.column_blocks, client.servers())) {}

size_t TableClient::servers() const { return client_.servers(); }

Status TableClient::PutTogether(const Destination& destination,
                                const std::vector<Reply>& replies) const {
  const TensorSpec& tensor = *destination.tensor;
  const bool dots = destination.exponents.size() > 0;
  std::vector<const void*, PoolAllocator<const void*>> parts(replies.size());
  for (size_t server = 0; server < replies.size(); ++server) {
    const size_t width = static_cast<size_t>(Columns(tensor, server).size());
    const RowSlice rows = Rows(tensor, server, destination.row_ids, destination.rows);
    const size_t bytes = rows.size() * (dots ? destination.pairs * sizeof(int64_t)
                                             : width * NumberBytes(destination.wire));
    const Frames& payload = replies[server].payload;
    if (payload.size() != 1 || payload[0].size() != bytes) return WrongReply(tensor, server);
    parts[server] = payload[0].data();
  }
  if (dots) {
    DotValues(parts, destination.pairs, destination.rows, destination.exponents.as<int8_t>(),
              destination.out);
    return Status::Ok();
  }
  for (size_t server = 0; server < replies.size(); ++server) {
    const ColumnRange range = Columns(tensor, server);
    const RowSlice rows = Rows(tensor, server, destination.row_ids, destination.rows);
    UnpackColumns(replies[server].payload[0], rows.size(), static_cast<size_t>(range.size()),
                  destination.stride, destination.wire,
                  destination.out + rows.begin * destination.stride + range.begin);
  }
  return Status::Ok();
}

Pending TableClient::Forward(const ReadState& at, const TensorSpec& tensor, size_t tokens,
                             const Frame& indices, const Frame& weights, float* y) {
  const ForwardRequest body{.at = at, .tensor = tensor.id, .tokens = static_cast<uint32_t>(tokens)};
  return {client_.CallAll(ToAll(servers(), body, {indices, weights})),
          *this,
          {.tensor = &tensor,
           .rows = tokens,
           .stride = static_cast<size_t>(tensor.columns),
           .wire = run_.rules.wire,
           .out = y}};
}

Pending TableClient::Backward(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                              size_t tokens, const Frame& indices, const Frame& weights,
                              const Frame& dy, float* dweights) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  const Wire wire = run_.rules.wire;
  // Exponents are of the numbers as sent.
  const Buffer exponents(tokens), as_sent(wire == Wire::kBf16 ? columns * sizeof(float) : 0),
      narrow(columns * sizeof(uint16_t));
  for (size_t t = 0; t < tokens; ++t) {
    const float* row = dy.as<float>() + t * columns;
    if (wire == Wire::kBf16) {
      PackBf16(narrow.data(), row, columns);
      UnpackBf16(as_sent.as<float>(), narrow.data(), columns);
      row = as_sent.as<float>();
    }
    exponents.as<int8_t>()[t] = DotExponent(row, columns);
  }
  std::vector<Request> requests =
      ToAll(servers(), BackwardRequest{.at = at,
                                       .tensor = tensor.id,
                                       .micro_batch = micro_batch,
                                       .tokens = static_cast<uint32_t>(tokens)});
  for (size_t server = 0; server < requests.size(); ++server) {
    requests[server].payload = {indices, weights,
                                PackColumns(dy, tokens, columns, Columns(tensor, server), wire),
                                Frame(exponents)};
  }
  if (dweights == nullptr) return Pending(client_.CallAll(std::move(requests)));
  return {client_.CallAll(std::move(requests)),
          *this,
          {.tensor = &tensor,
           .rows = tokens,
           .pairs = weights.size() / sizeof(float) / tokens,
           .exponents = exponents,
           .out = dweights}};
}

Pending TableClient::PullRows(const ReadState& at, const TensorSpec& tensor, const Frame& rows,
                              uint64_t first, uint64_t count, float* values, size_t stride) {
  const PullRequest body{.at = at, .tensor = tensor.id, .first_row = first, .row_count = count};
  std::vector<Request> requests = ToAll(servers(), body, {rows});
  if (tensor.kind == TensorKind::kKeyed) {
    for (size_t server = 0; server < requests.size(); ++server) {
      const RowSlice own = Rows(tensor, server, rows, count);
      requests[server].body = PullRequest{.at = at, .tensor = tensor.id, .row_count = own.size()};
      requests[server].payload = {
          rows.Part(own.begin * sizeof(uint64_t), own.size() * sizeof(uint64_t))};
    }
  }
  return {client_.CallAll(std::move(requests)),
          *this,
          {.tensor = &tensor,
           .rows = count,
           .row_ids = rows,
           .stride = stride,
           .wire = Wire::kF32,
           .out = values}};
}

Pending TableClient::Pull(const ReadState& at, const TensorSpec& tensor, const Frame& rows,
                          float* values, size_t stride) {
  return PullRows(at, tensor, rows, 0, rows.size() / sizeof(uint64_t), values, stride);
}

Pending TableClient::Pull(const ReadState& at, const TensorSpec& tensor,
                          const std::vector<uint64_t>& rows, float* values) {
  return Pull(at, tensor, CopyToFrame(rows.data(), rows.size() * sizeof(uint64_t)), values,
              static_cast<size_t>(tensor.columns));
}

Pending TableClient::PullRange(FinishedStep at, const TensorSpec& tensor, uint64_t first,
                               uint64_t count, float* values) {
  return PullRows(at, tensor, Frame(), first, count, values, static_cast<size_t>(tensor.columns));
}

Pending TableClient::PushRows(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                              const Frame& rows, const Frame& hits, uint64_t count,
                              const Frame& values) {
  PushRequest body{.at = at, .tensor = tensor.id, .micro_batch = micro_batch, .row_count = count};
  std::vector<Request> requests = ToAll(servers(), body);
  const auto columns = static_cast<size_t>(tensor.columns);
  for (size_t server = 0; server < requests.size(); ++server) {
    if (tensor.kind != TensorKind::kKeyed) {
      requests[server].payload = {
          rows, hits, PackColumns(values, count, columns, Columns(tensor, server), Wire::kF32)};
      continue;
    }
    const RowSlice own = Rows(tensor, server, rows, count);
    const auto part = [&own](const Frame& frame, size_t bytes) {
      return frame.size() == 0 ? frame : frame.Part(own.begin * bytes, own.size() * bytes);
    };
    body.row_count = own.size();
    requests[server].body = body;
    requests[server].payload = {part(rows, sizeof(uint64_t)), part(hits, sizeof(uint32_t)),
                                part(values, columns * sizeof(float))};
  }
  return Pending(client_.CallAll(std::move(requests)));
}

Pending TableClient::Push(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                          const Frame& rows, const Frame& hits, const Frame& values) {
  return PushRows(at, micro_batch, tensor, rows, hits, rows.size() / sizeof(uint64_t), values);
}

Pending TableClient::Push(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                          const std::vector<uint64_t>& rows, const std::vector<uint32_t>& hits,
                          const float* values) {
  const size_t bytes = rows.size() * static_cast<size_t>(tensor.columns) * sizeof(float);
  return Push(at, micro_batch, tensor, CopyToFrame(rows.data(), rows.size() * sizeof(uint64_t)),
              CopyToFrame(hits.data(), hits.size() * sizeof(uint32_t)), CopyToFrame(values, bytes));
}

Pending TableClient::PushWhole(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                               const float* values) {
  const size_t bytes = tensor.values() * sizeof(float);
  return PushRows(at, micro_batch, tensor, Frame(), Frame(), tensor.total_rows(),
                  CopyToFrame(values, bytes));
}

Result<std::vector<uint64_t>> TableClient::ListRows(FinishedStep at, const TensorSpec& tensor,
                                                    uint64_t first, uint64_t most) {
  std::vector<uint64_t> rows;
  for (size_t server = 0; server < servers() && rows.size() < most; ++server) {
    const uint64_t asked = std::min(most - rows.size(), kListedRowsMax);
    const ListRowsRequest body{
        .at = at, .tensor = tensor.id, .first_row = first, .row_count = asked};
    Client::Outcome outcome = client_.Call(server, {.body = body}).get();
    if (!outcome.ok()) return outcome.status();
    const Frames& payload = (*outcome)[0].payload;
    if (payload.size() != 1 || payload[0].size() % sizeof(uint64_t) != 0)
      return WrongReply(tensor, server);
    const size_t before = rows.size();
    rows.resize(before + payload[0].size() / sizeof(uint64_t));
    if (payload[0].size() > 0)
      std::memcpy(rows.data() + before, payload[0].data(), payload[0].size());
    // It may have more, which come before those of the next one; or it knows them all.
    if (rows.size() - before == asked || shares_[tensor.id][server].tables.end == tensor.tables)
      break;
  }
  return rows;
}

Result<Prepared> TableClient::Prepare(OpenStep at) {
  Client::Outcome outcome = client_.CallAll(ToAll(servers(), PrepareRequest{at})).get();
  if (!outcome.ok()) return outcome.status();
  return CombinePrepared(run_.tensors, shares_, *outcome);
}

Result<bool> TableClient::Finish(OpenStep at, const StepEnd& end) {
  Client::Outcome outcome = client_.CallAll(ToAll(servers(), EndRequest(at, end))).get();
  if (!outcome.ok()) return outcome.status();
  return CombineEnded(at, *outcome);
}

}  // namespace mf
