// OUT/run.json: what it takes to repeat a run to the bit, written when a worker begins
// (docs/RELIABILITY.md, "Versions").
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/versions.h"
#include "worker/config/config.h"

namespace mf {

/// What computes: another one may give other last bits.
struct Platform {
  ProgramVersion program;
  std::string processor;              // "AMD EPYC 9B14"
  std::vector<std::string> features;  // its vector instructions, as the system names them, sorted
  std::string kernels;                // KernelTarget()
  std::string matrix_library;         // MultiplyLibrary()
  std::string computes_on;            // "CPU", or the GPU
};
/// `computes_on`: Compute::Describe(), of which what follows a comma is left out.
Platform ThisPlatform(const std::string& computes_on);
/// "processor X here, Y there; ..." of what is different, on one line; empty if nothing is.
std::string DescribeDifference(const Platform& here, const Platform& there);

struct RunFile {
  Config config;                 // every key, resolved
  std::string run_id;            // of the run's description
  std::string data, validation;  // absolute paths; no validation: the end of `data`
  std::string data_digest;       // TokenSource::Digest()
  std::string init = {};         // absolute path of the model that it begins with; empty: none
  bool keep_optimizer = false;   // of that
  uint64_t init_step = 0;        // the step of its snapshots; 0: it is none of snapshots
  Platform platform;             // of the worker that wrote it
};

/// Appears by rename. kFailed, naming the file, if it cannot be written.
Status WriteRunFile(const std::string& path, const RunFile& run);
/// kInvalid, naming the file and what is wrong with it, for anything but a run.json of a version
/// that this program reads.
Result<RunFile> ReadRunFile(const std::string& path);

}  // namespace mf
