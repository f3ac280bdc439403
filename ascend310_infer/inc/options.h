// The command line, in the names of the MindSpore model zoo's ascend310_infer programs.
#ifndef ASCEND310_INFER_OPTIONS_H_
#define ASCEND310_INFER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace infer {

using Shape = std::vector<int64_t>;

struct Options {
  std::string model;
  std::string inputs;
  std::string dataset_name;
  std::string engine;          // empty: by the model's suffix
  std::string device_type;     // empty: the engine's own
  std::string precision_mode;  // empty: the engine's default
  std::string result_path = "./result_Files";
  std::string time_path = "./time_Result";
  std::string dump;   // empty: nothing is dumped
  Shape input_shape;  // empty: the model's
  int device_id = 0;
  int warmup = 1;
  int num_threads = 0;  // 0: the engine's choice
  int streams = 1;
  bool help = false;
};

// `--name=value` or `--name value`, the last one counts; BadInput for a flag that is unknown, wrong or missing.
Options ParseOptions(const std::vector<std::string> &arguments);

std::string HelpText();

std::string ShapeText(const Shape &shape);  // "1x3x512x1024"

}  // namespace infer

#endif  // ASCEND310_INFER_OPTIONS_H_
