#include "engine.h"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "errors.h"

namespace infer {
namespace fs = std::filesystem;
namespace {

struct Kind {
  std::string name;
  std::string suffix;
  std::vector<std::string> devices;     // the first one is the default
  std::vector<std::string> precisions;  // likewise
  std::string hint;                     // how its libraries come to be found
};

const std::vector<Kind> &Kinds() {
  static const std::vector<Kind> kinds = {
      {"ascendcl", ".om", {"Ascend"}, {},
       "source the set_env.sh of the CANN toolkit (it sets ASCEND_HOME_PATH and LD_LIBRARY_PATH)"},
      {"mslite", ".mindir", {"Ascend", "CPU"},
       {"enforce_fp32", "preferred_fp32", "enforce_fp16", "enforce_origin", "preferred_optimal"},
       "set MS_LITE_HOME to an unpacked mindspore-lite-*-linux-*.tar.gz, add its runtime/lib and tools/converter/lib to "
       "LD_LIBRARY_PATH, and for Ascend source the set_env.sh of the CANN toolkit"},
      {"openvino", ".onnx", {"CPU"}, {"enforce_fp32", "preferred_optimal"},
       "install it with `pip install openvino` for the Python that PYTHON names"},
  };
  return kinds;
}

const Kind &Choose(const Options &options) {
  const std::string suffix = fs::path(options.model).extension().string();
  for (const Kind &kind : Kinds()) {
    if (options.engine.empty() ? kind.suffix == suffix : kind.name == options.engine) return kind;
  }
  if (!options.engine.empty()) {
    throw BadInput("--engine " + options.engine + ": there is none of this name; choose ascendcl, mslite or openvino");
  }
  throw BadInput(options.model + ": no engine is known for this suffix; expected .om, .mindir or .onnx, or name the --engine");
}

// The value asked for, or the default where it is empty.
std::string Pick(const std::string &flag, const std::string &value, const std::vector<std::string> &choices, const Kind &kind) {
  if (value.empty()) return choices.empty() ? "" : choices.front();
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return value;
  std::string text;
  for (const std::string &choice : choices) text += (text.empty() ? "expected " : " or ") + choice;
  throw BadInput(flag + " " + value + ": not with the engine " + kind.name + "; " +
                 (choices.empty() ? "it is fixed when ATC converts the model" : text));
}

void CheckReadable(const std::string &model) {
  if (!fs::is_regular_file(model)) throw BadInput(model + ": no such model file");
  if (!std::ifstream(model)) throw BadInput(model + ": the model cannot be read; look at the file's permissions");
}

// The library stays open until the process ends.
Engine *Load(const Kind &kind, const Options &options) {
  const fs::path library = fs::read_symlink("/proc/self/exe").parent_path() / ("libengine_" + kind.name + ".so");
  if (!fs::exists(library)) {
    throw Failure("this program was built without the engine " + kind.name + ": " + kind.hint + ", and run build.sh again");
  }
  void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw Failure(std::string(dlerror()) + "\nhint: " + kind.hint);
  return reinterpret_cast<decltype(&NewEngine)>(dlsym(handle, "NewEngine"))(options);
}

void Check(const Engine &engine, const Options &options) {
  if (engine.inputs.size() != 1) {
    std::string names;
    for (const Tensor &input : engine.inputs) names += (names.empty() ? "" : ", ") + input.name;
    throw BadInput(options.model + ": it has " + std::to_string(engine.inputs.size()) + " inputs (" + names +
                   "), but this program feeds one; export it with the image as its only input, of static size for an .om");
  }
  const Tensor &input = engine.inputs.front();
  if (!options.input_shape.empty() && options.input_shape != input.shape) {
    throw BadInput("--input_shape " + ShapeText(options.input_shape) + ": the input of " + options.model + " is " +
                   Describe(input) + "; leave the flag out, or export the model for that shape");
  }
  std::vector<Tensor> tensors{input};
  tensors.insert(tensors.end(), engine.outputs.begin(), engine.outputs.end());
  for (const Tensor &tensor : tensors) {
    const bool fixed = std::all_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t size) { return size > 0; });
    if (!fixed || tensor.bytes == 0) {
      throw BadInput(options.model + ": " + Describe(tensor) + " has no fixed size; give the batch's --input_shape, or export "
                     "the model with static sizes");
    }
    const uint64_t numbers = input.bytes / sizeof(float);
    const uint64_t most = &tensor == &tensors.front() ? kMostImages : std::max(kMostNumbers, kShare * numbers);
    if (tensor.bytes / sizeof(float) > most) {
      throw BadInput(options.model + ": " + Describe(tensor) + " takes " + std::to_string(tensor.bytes) + " bytes; expected at "
                     "most " + std::to_string(most * sizeof(float)) + ": export the model for a smaller batch");
    }
    const int64_t batch = input.shape.empty() ? 1 : input.shape.front();
    if (batch > 1 && (tensor.shape.empty() || tensor.shape.front() != batch)) {
      throw BadInput(options.model + ": " + Describe(tensor) + " cannot be cut into the " + std::to_string(batch) +
                     " samples of a batch; export the model with batch 1");
    }
  }
}

}  // namespace

std::unique_ptr<Engine> OpenEngine(Options options) {
  const Kind &kind = Choose(options);
  options.device_type = Pick("--device_type", options.device_type, kind.devices, kind);
  options.precision_mode = Pick("--precision_mode", options.precision_mode, kind.precisions, kind);
  CheckReadable(options.model);
  std::unique_ptr<Engine> engine(Load(kind, options));
  Check(*engine, options);
  return engine;
}

std::string Describe(const Tensor &tensor) { return tensor.name + " " + tensor.type + " " + ShapeText(tensor.shape); }

}  // namespace infer
