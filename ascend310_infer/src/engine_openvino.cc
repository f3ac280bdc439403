// OpenVINO on the host's CPU: .onnx. https://docs.openvino.ai, "OpenVINO Runtime API"
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <openvino/openvino.hpp>
#include <set>
#include <thread>

#include "engine.h"
#include "errors.h"
#include "printable.h"

namespace infer {
namespace {

const std::string kCpu = "CPU";
constexpr uint64_t kExpanded = 8;         // weights of int8 as float32, twice
constexpr uint64_t kReading = 4ull << 30;  // bytes to read a model with, which may have weights in other files
constexpr uint64_t kMemory = 1ull << 30;  // bytes to run it with, beside those for its weights and what it computes
const std::set<std::string> kEndless = {"Loop", "TensorIterator"};

// What OpenVINO and its readers print themselves does not come before the one line that this program prints.
class Quiet {
 public:
  Quiet() : error_(dup(STDERR_FILENO)), output_(dup(STDOUT_FILENO)) {
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere < 0) return;
    dup2(nowhere, STDERR_FILENO);
    dup2(nowhere, STDOUT_FILENO);
    close(nowhere);
  }
  ~Quiet() {
    for (const auto &[kept, number] : {std::pair{error_, STDERR_FILENO}, std::pair{output_, STDOUT_FILENO}}) {
      if (kept < 0) continue;
      dup2(kept, number);
      close(kept);
    }
  }
  Quiet(const Quiet &) = delete;
  Quiet &operator=(const Quiet &) = delete;

 private:
  int error_;
  int output_;
};

// A product that stays at the largest number.
uint64_t Times(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

// Numbers of a tensor; sizes that are not known count as 1.
uint64_t Numbers(const ov::PartialShape &shape) {
  uint64_t numbers = 1;
  if (shape.rank().is_dynamic()) return numbers;
  for (const ov::Dimension &size : shape) {
    if (size.is_static()) numbers = Times(numbers, static_cast<uint64_t>(size.get_length()));
  }
  return numbers;
}

// Lets this process take so many bytes more than it has: beyond that an allocation fails, which is an error of the model. With
// AddressSanitizer, whose allocator ends the program instead, there is no such limit.
void LimitMemory([[maybe_unused]] uint64_t bytes) {
#ifndef __SANITIZE_ADDRESS__
  uint64_t pages = 0;
  if (!(std::ifstream("/proc/self/statm") >> pages)) return;
  const uint64_t threads = std::thread::hardware_concurrency() + 1;
  const uint64_t used = Times(pages, sysconf(_SC_PAGESIZE)) + (threads << 26) + (threads << 23);  // arenas and stacks
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, bytes > UINT64_MAX / 2 ? RLIM_INFINITY : used + bytes);
  setrlimit(RLIMIT_AS, &limit);
#endif
}

std::string LastLine(const std::exception &error) {
  std::string text = error.what();
  text.erase(text.find_last_not_of(" \n") + 1);
  return text.substr(text.rfind('\n') + 1);
}

std::string TypeName(const ov::element::Type &type) {
  const std::string bits = std::to_string(type.bitwidth());
  if (type == ov::element::bf16) return "bfloat16";
  if (type == ov::element::boolean) return "bool";
  if (type.is_real()) return "float" + bits;
  return (type.is_signed() ? "int" : "uint") + bits;
}

Tensor Description(const ov::Output<const ov::Node> &port) {
  Tensor tensor{port.get_names().empty() ? "unnamed" : port.get_any_name(), TypeName(port.get_element_type()), {}, 0};
  for (const ov::Dimension &size : port.get_partial_shape()) {
    tensor.shape.push_back(size.is_static() ? size.get_length() : -1);
  }
  if (port.get_partial_shape().is_static()) tensor.bytes = ov::shape_size(port.get_shape()) * port.get_element_type().size();
  return tensor;
}

class OpenVinoRequest : public Request {
 public:
  OpenVinoRequest(ov::CompiledModel *model, const std::string &name) try
      : model_(name), request_(model->create_infer_request()) {
  } catch (const std::exception &error) {
    throw BadInput(name + ": OpenVINO cannot run it: " + LastLine(error));
  }
  uint8_t *Input() override { return static_cast<uint8_t *>(request_.get_input_tensor(0).data()); }
  void Run() override try {
    request_.infer();
  } catch (const std::exception &error) {  // ov::Exception, and std::bad_alloc
    throw BadInput(model_ + ": OpenVINO cannot run it: " + LastLine(error));
  }
  const uint8_t *Output(size_t index) override {
    return static_cast<const uint8_t *>(request_.get_output_tensor(index).data());
  }

 private:
  std::string model_;
  ov::InferRequest request_;
};

class OpenVinoEngine : public Engine {
 public:
  explicit OpenVinoEngine(const Options &options) : name_(options.model) {
    const uint64_t file = Times(kExpanded, std::filesystem::file_size(options.model));
    LimitMemory(kReading + file);
    const std::shared_ptr<ov::Model> model = ReadModel(options);
    LimitMemory(kMemory + Times(4 * options.streams, CheckSizes(options.model, *model)));
    ov::AnyMap settings{ov::num_streams(options.streams)};
    if (options.num_threads > 0) settings.insert(ov::inference_num_threads(options.num_threads));
    if (options.precision_mode != "enforce_fp32") {
      try {
        const Quiet quiet;
        model_ = core_.compile_model(model, kCpu, settings);
      } catch (const ov::Exception &error) {  // bfloat16 is chosen on some CPUs that then lack the instructions for it
        std::cerr << "warning: " + Line(options.model + ": OpenVINO cannot compile it in the precision that it prefers (" +
                                        LastLine(error) + "), float32 is used") + "\n";
      }
    }
    if (!model_) Compile(options.model, model, settings);
    for (const auto &port : model_.inputs()) inputs.push_back(Description(port));
    for (const auto &port : model_.outputs()) outputs.push_back(Description(port));
  }

  std::unique_ptr<Request> NewRequest() override { return std::make_unique<OpenVinoRequest>(&model_, name_); }

 private:
  void Compile(const std::string &name, const std::shared_ptr<ov::Model> &model, ov::AnyMap settings) try {
    settings.insert(ov::hint::inference_precision(ov::element::f32));
    const Quiet quiet;
    model_ = core_.compile_model(model, kCpu, settings);
  } catch (const std::exception &error) {  // ov::Exception, and std::bad_alloc
    throw BadInput(name + ": OpenVINO cannot compile it: " + LastLine(error));
  }

  // Numbers that a tensor of the model may have, and kExpanded for each byte of its weights. BadInput where one is known to have
  // more, or a graph may repeat for ever.
  static uint64_t CheckSizes(const std::string &name, const ov::Model &model) {
    uint64_t images = 1;
    for (const auto &input : model.inputs()) images = std::max(images, Numbers(input.get_partial_shape()));
    if (images > kMostImages) {
      throw BadInput(name + ": its input has more than " + std::to_string(kMostImages) + " numbers; export it for a smaller batch");
    }
    uint64_t most = std::max(kMostNumbers, Times(kShare, images));
    uint64_t weights = 0;
    std::vector<std::shared_ptr<ov::Node>> left = model.get_ops();
    for (const auto &node : left) {
      if (const auto constant = std::dynamic_pointer_cast<ov::op::v0::Constant>(node)) {
        most = std::max<uint64_t>(most, ov::shape_size(constant->get_shape()));
        weights += constant->get_byte_size();
      }
    }
    while (!left.empty()) {
      const std::shared_ptr<ov::Node> node = left.back();
      left.pop_back();
      if (const auto branches = std::dynamic_pointer_cast<ov::op::util::MultiSubGraphOp>(node)) {
        for (const auto &branch : branches->get_functions()) {
          const auto inner = branch->get_ops();
          left.insert(left.end(), inner.begin(), inner.end());
        }
      }
      if (kEndless.count(node->get_type_name()) > 0) {
        throw BadInput(name + ": it repeats a graph as often as its data say (" + node->get_type_name() +
                       "), which a network for images does not");
      }
      for (const auto &output : node->outputs()) {
        if (Numbers(output.get_partial_shape()) <= most) continue;
        throw BadInput(name + ": it computes " + node->get_friendly_name() + " of more than " + std::to_string(most) +
                       " numbers, which its images do not call for");
      }
    }
    return most + Times(kExpanded, weights);
  }

  // A model of any size is given the shape asked for; one of a fixed size that differs is left for the caller to refuse.
  std::shared_ptr<ov::Model> ReadModel(const Options &options) try {
    const Quiet quiet;
    const std::shared_ptr<ov::Model> model = core_.read_model(options.model);
    const ov::PartialShape asked(options.input_shape);
    if (!options.input_shape.empty() && model->inputs().size() == 1 && model->input().get_partial_shape().compatible(asked)) {
      model->reshape(asked);
    }
    return model;
  } catch (const std::exception &error) {  // ov::Exception, and std::bad_alloc
    throw BadInput(options.model + ": OpenVINO refuses it: " + LastLine(error));
  }

  std::string name_;
  ov::Core core_;
  ov::CompiledModel model_;
};

}  // namespace
}  // namespace infer

infer::Engine *NewEngine(const infer::Options &options) { return new infer::OpenVinoEngine(options); }
