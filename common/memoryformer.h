// All that a program needs to train on parameter servers: `#include <memoryformer/memoryformer.h>`.
//   Session         joins a run, hands out its work, commits and recovers (common/client/session.h)
//   RunDescription  what a run is: its tensors and rules (common/run/run_description.h)
//   Reader          reads a run's model without training it (common/client/reader.h)
//   TableClient     reads and gradients of the tensors (common/client/table_client.h)
//   Buffer, Frame   bytes that are sent without a copy (common/base/buffer.h)
//   Status, Result  errors (common/base/status.h)
#pragma once

#include "common/base/buffer.h"          // IWYU pragma: export
#include "common/base/status.h"          // IWYU pragma: export
#include "common/client/reader.h"        // IWYU pragma: export
#include "common/client/session.h"       // IWYU pragma: export
#include "common/client/table_client.h"  // IWYU pragma: export
#include "common/run/keyed_rows.h"       // IWYU pragma: export
#include "common/run/run_description.h"  // IWYU pragma: export
