#include "options.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <sstream>

#include "errors.h"

namespace infer {
namespace {

using Setter = std::function<void(Options *, const std::string &)>;

struct Flag {
  std::vector<std::string> names;  // the first one is shown in messages
  std::string value;
  std::string help;
  Setter set;
};

int64_t Number(std::string_view text, int64_t least, int64_t most) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most) {
    throw BadInput("expected a number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return number;
}

Setter Text(std::string Options::*field) {
  return [=](Options *options, const std::string &text) {
    if (text.empty()) throw BadInput("expected a value");
    options->*field = text;
  };
}

Setter Whole(int Options::*field, int least, int most) {
  return [=](Options *options, const std::string &text) { options->*field = static_cast<int>(Number(text, least, most)); };
}

void SetShape(Options *options, const std::string &text) {
  options->input_shape.clear();
  std::istringstream sizes(text + ",");
  for (std::string size; std::getline(sizes, size, ',');) options->input_shape.push_back(Number(size, 1, 1 << 24));
}

const std::vector<Flag> &Flags() {
  static const std::vector<Flag> flags = {
      {{"mindir_path", "model_path"}, "FILE", "model: .om, .mindir or .onnx", Text(&Options::model)},
      {{"input0_path", "dataset_path", "input_path"}, "FOLDER", "folder of inputs, one sample to a .bin file",
       Text(&Options::inputs)},
      {{"dataset_name"}, "NAME", "taken as the model zoo's scripts pass it; nothing depends on it",
       Text(&Options::dataset_name)},
      {{"device_id"}, "N", "number of the Ascend device (default 0)", Whole(&Options::device_id, 0, 1 << 16)},
      {{"device_type"}, "TYPE", "Ascend or CPU (default: Ascend for .om and .mindir, CPU for .onnx)",
       Text(&Options::device_type)},
      {{"engine"}, "NAME", "ascendcl, mslite or openvino (default: by the model's suffix)", Text(&Options::engine)},
      {{"precision_mode"}, "MODE", "mslite: enforce_fp32 (default), preferred_fp32, enforce_fp16, enforce_origin, "
       "preferred_optimal; openvino: enforce_fp32 (default), preferred_optimal; ascendcl: fixed by ATC",
       Text(&Options::precision_mode)},
      {{"input_shape"}, "N,C,H,W", "shape of a batch: for models of any size; otherwise checked against the model's", SetShape},
      {{"streams"}, "N", "requests in flight (default 1)", Whole(&Options::streams, 1, 256)},
      {{"num_threads"}, "N", "threads of an engine on the CPU (default 0: its own choice)",
       Whole(&Options::num_threads, 0, 1 << 12)},
      {{"warmup"}, "N", "untimed inferences of each request first (default 1)", Whole(&Options::warmup, 0, 1 << 20)},
      {{"result_path"}, "FOLDER", "results (default ./result_Files): <input's name up to its first dot>_<output>.bin",
       Text(&Options::result_path)},
      {{"time_path"}, "FOLDER", "timing (default ./time_Result): test_perform_static.txt", Text(&Options::time_path)},
      {{"dump"}, "FOLDER", "input and all outputs of the first batch, with trace.json, for `twinseg trace`",
       Text(&Options::dump)},
  };
  return flags;
}

const Flag &Find(const std::string &name) {
  for (const Flag &flag : Flags()) {
    if (std::find(flag.names.begin(), flag.names.end(), name) != flag.names.end()) return flag;
  }
  throw BadInput("unknown flag --" + name + "; --help lists those there are");
}

}  // namespace

Options ParseOptions(const std::vector<std::string> &arguments) {
  Options options;
  for (auto argument = arguments.begin(); argument != arguments.end(); ++argument) {
    if (argument->rfind("--", 0) != 0) throw BadInput("unexpected argument '" + *argument + "'; expected --name=value");
    const size_t equals = argument->find('=');
    const std::string name = argument->substr(2, equals == std::string::npos ? equals : equals - 2);
    if (name == "help") {
      options.help = true;
      return options;
    }
    const Flag &flag = Find(name);
    if (equals == std::string::npos && std::next(argument) == arguments.end()) throw BadInput("--" + name + ": no value");
    const std::string value = equals == std::string::npos ? *++argument : argument->substr(equals + 1);
    try {
      flag.set(&options, value);
    } catch (const BadInput &error) {
      throw BadInput("--" + name + " '" + value + "': " + error.what());
    }
  }
  if (options.model.empty()) throw BadInput("--mindir_path is missing: which model?");
  if (options.inputs.empty()) throw BadInput("--input0_path is missing: which folder of .bin inputs?");
  return options;
}

std::string HelpText() {
  std::ostringstream text;
  text << "usage: main --mindir_path=FILE --input0_path=FOLDER [--name=value ...]\n"
          "Runs a model over preprocessed inputs and writes raw results and timing.\n\n";
  for (const Flag &flag : Flags()) {
    std::string names;
    for (const std::string &name : flag.names) names += (names.empty() ? "--" : ", --") + name;
    text << "  " << names << " " << flag.value << "\n      " << flag.help << "\n";
  }
  text << "\nExit status: 0 when every input has its results, 2 for bad input, 1 for a failure while running.\n";
  return text.str();
}

std::string ShapeText(const Shape &shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : "x") + (size < 0 ? "?" : std::to_string(size));
  return text.empty() ? "a single number" : text;
}

}  // namespace infer
