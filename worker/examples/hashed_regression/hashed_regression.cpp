// A regression on hashed features, trained on parameter servers: each of a sample's eight features
// picks a row of its table, and the sum of the rows is the prediction of 32 numbers.
//   hashed_regression STEPS tcp://127.0.0.1:7000 tcp://127.0.0.1:7001
// Any number of these processes, on any machines, work on the same run.
#include <memoryformer/memoryformer.h>

#include <bit>
#include <cstdio>
#include <cstdlib>

constexpr size_t kFeatures = 8, kRows = 1024, kOutputs = 32, kSamples = 256, kPairs = 8 * 256;

mf::RunDescription Describe(int64_t steps) {
  mf::RunDescription run{.about = "hashed regression", .data = "seed 1"};
  mf::TensorSpec& tables = run.tensors.emplace_back();
  tables.name = "features";
  tables.kind = mf::TensorKind::kMemory;
  tables.shape = {tables.tables = kFeatures, tables.rows = kRows, tables.columns = kOutputs};
  run.rules.steps = steps;
  run.rules.tokens_per_micro_batch = kSamples;
  run.rules.schedule.peak = 0.02;  // of the learning rate; Adam unless the tensor says otherwise
  run.rules.snapshots.every_steps = 10;
  return run;
}

uint64_t Mix(uint64_t x) {  // looks drawn by chance, and is the same for the same x
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  return (x ^ (x >> 27)) * 0x94D049BB133111EB ^ (x >> 31);
}

/// The samples of a micro-batch: from its place in the run alone, so that any process may do it.
struct Batch {
  mf::Buffer rows{kPairs * sizeof(uint16_t)}, weights{kPairs * sizeof(float)};  // [feature][sample]
  std::vector<double> targets = std::vector<double>(kSamples * kOutputs);
  Batch(uint64_t step, uint64_t number) {
    for (size_t pair = 0; pair < kPairs; ++pair) {
      const uint64_t draw = Mix((step << 32) + number * kPairs + pair);
      const uint64_t row = draw % (1 + (draw >> 32) % kRows);  // small ones are frequent
      rows.as<uint16_t>()[pair] = static_cast<uint16_t>(row);
      weights.as<float>()[pair] = 1;
      for (size_t c = 0; c < kOutputs; ++c) {
        const uint64_t truth = Mix((pair / kSamples * kRows + row) * kOutputs + c + (1ull << 60));
        targets[pair % kSamples * kOutputs + c] += static_cast<double>(truth >> 40) * 0x1p-24;
      }
    }
  }
};

/// The sum of squared errors, with gradients of the step's mean; of a finished state their mean.
mf::Result<double> Run(mf::Session& session, const mf::ReadState& at, const Batch& b, uint32_t n) {
  mf::TableClient& servers = session.tables();
  const mf::TensorSpec& tables = session.run().tensors[0];
  const mf::Buffer y(kSamples * kOutputs * sizeof(float));
  auto sums = servers.Forward(at, tables, kSamples, b.rows, b.weights, y.as<float>());
  MF_RETURN_IF_ERROR(sums.Wait());
  const double samples = static_cast<double>(kSamples * session.run().rules.micro_batches);
  double loss = 0;
  for (size_t i = 0; i < kSamples * kOutputs; ++i) {
    const double error = static_cast<double>(y.as<float>()[i]) - b.targets[i];
    loss += error * error;
    y.as<float>()[i] = static_cast<float>(2 * error / samples);  // dL/dy
  }
  if (const auto* open = std::get_if<mf::OpenStep>(&at)) {
    auto gradients = servers.Backward(*open, n, tables, kSamples, b.rows, b.weights, y, nullptr);
    MF_RETURN_IF_ERROR(gradients.Wait());
    return loss;
  }
  return loss / kSamples;
}

mf::Status Train(mf::Session& session) {
  MF_RETURN_IF_ERROR(session.Join());
  const auto lane = session.NewLane();
  MF_ASSIGN_OR_RETURN(mf::Session::Work work, lane->Next());
  while (work.kind != mf::Session::Work::Kind::kFinished) {
    const bool trains = work.kind == mf::Session::Work::Kind::kMicroBatch;  // or evaluates
    const mf::ReadState at = trains ? mf::ReadState(work.open) : work.finished;
    const Batch batch(trains ? work.open.step : 0, work.micro_batch);  // 0: not trained on
    mf::Result<double> loss = Run(session, at, batch, work.micro_batch);
    if (!trains && loss.ok()) std::printf("held-out loss %g\n", loss.value());
    lane->Done(std::move(loss));
    MF_ASSIGN_OR_RETURN(work, lane->Next());
  }
  std::vector<float> rows(kFeatures * kRows * kOutputs);  // the same for any number of servers
  const mf::TensorSpec& tables = session.run().tensors[0];
  auto pull = session.tables().PullRange(work.finished, tables, 0, kFeatures * kRows, rows.data());
  MF_RETURN_IF_ERROR(pull.Wait());
  uint64_t digest = 0;
  for (const float x : rows) digest = Mix(digest + std::bit_cast<uint32_t>(x));
  std::printf("tables %016llx\n", static_cast<unsigned long long>(digest));
  return mf::Status::Ok();
}

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 100;
  if (steps < 1) {
    std::fprintf(stderr, "error: usage: hashed_regression [STEPS [ADDRESS ...]]\n");
    return 2;
  }
  mf::Session::Options options{.run = Describe(steps)};
  for (int i = 2; i < argc; ++i) options.addresses.push_back(argv[i]);
  auto session = mf::Session::Connect(options);
  const mf::Status status = session.ok() ? Train(*session.value()) : session.status();
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return status.exit_code();
}
