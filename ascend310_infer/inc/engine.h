// What runs a model. Each engine is a library of its own beside the program (libengine_<name>.so), opened when it is used,
// so that the program starts, and can say what is missing, where the engine's libraries are not installed.
#ifndef ASCEND310_INFER_ENGINE_H_
#define ASCEND310_INFER_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "options.h"

namespace infer {

// Limits of a model for images, as common/deploy/onnx_check.py has them.
constexpr uint64_t kMostImages = 3ull << 25;   // numbers of a batch
constexpr uint64_t kMostNumbers = 1ull << 26;  // of a tensor that is computed, or kShare for each of the batch's
constexpr uint64_t kShare = 64;

struct Tensor {
  std::string name;
  std::string type;  // such as float32
  Shape shape;       // its first size is the batch
  size_t bytes = 0;  // of the whole batch
};

// One inference at a time, with memory of its own; several requests run in parallel. Raises Failure.
class Request {
 public:
  virtual ~Request() = default;
  virtual uint8_t *Input() = 0;  // a whole batch, to be filled before Run
  virtual void Run() = 0;        // from this memory to that of the outputs, copies to and from a device included
  virtual const uint8_t *Output(size_t index) = 0;  // a whole batch, until the next Run
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::unique_ptr<Request> NewRequest() = 0;

  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
};

// The engine for a model, by its suffix or by name, with the model loaded: one input, outputs that can be cut into the
// samples of a batch, none larger than a model for images has. BadInput for a model or settings it does not take, Failure where
// its libraries are missing.
std::unique_ptr<Engine> OpenEngine(Options options);

// "image float32 1x3x64x96"
std::string Describe(const Tensor &tensor);

}  // namespace infer

// The one function of an engine's library.
extern "C" infer::Engine *NewEngine(const infer::Options &options);

#endif  // ASCEND310_INFER_ENGINE_H_
