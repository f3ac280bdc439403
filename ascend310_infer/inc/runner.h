// Inputs through a model: batches, requests in flight, results and timing.
#ifndef ASCEND310_INFER_RUNNER_H_
#define ASCEND310_INFER_RUNNER_H_

#include <string>
#include <vector>

#include "engine.h"
#include "files.h"
#include "options.h"

namespace infer {

struct Timing {
  std::vector<double> inferences;  // milliseconds each, of a whole batch; reading and writing files is not in them
  double elapsed = 0;              // milliseconds from the first inference's start to the last result on disk
};

// Writes <stem>_<output>.bin for every input into the folder `result_path`. The last batch is filled up with its last sample,
// whose extra results are dropped. On an error nothing more is begun, and the results that are there are whole.
Timing RunAll(Engine *engine, const std::vector<Path> &inputs, const Options &options);

// The model zoo's line, and ours below it. Percentiles are by nearest rank.
std::string Summary(const Timing &timing, size_t inputs);

}  // namespace infer

#endif  // ASCEND310_INFER_RUNNER_H_
