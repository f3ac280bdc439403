// OpenVINO on the host's CPU: .onnx. https://docs.openvino.ai, "OpenVINO Runtime API"
#include <iostream>
#include <openvino/openvino.hpp>

#include "engine.h"
#include "errors.h"

namespace infer {
namespace {

const std::string kCpu = "CPU";

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
  explicit OpenVinoRequest(ov::CompiledModel *model) : request_(model->create_infer_request()) {}
  uint8_t *Input() override { return static_cast<uint8_t *>(request_.get_input_tensor(0).data()); }
  void Run() override try {
    request_.infer();
  } catch (const ov::Exception &error) {
    throw Failure("OpenVINO: " + LastLine(error));
  }
  const uint8_t *Output(size_t index) override {
    return static_cast<const uint8_t *>(request_.get_output_tensor(index).data());
  }

 private:
  ov::InferRequest request_;
};

class OpenVinoEngine : public Engine {
 public:
  explicit OpenVinoEngine(const Options &options) {
    const std::shared_ptr<ov::Model> model = ReadModel(options);
    ov::AnyMap settings{ov::num_streams(options.streams)};
    if (options.num_threads > 0) settings.insert(ov::inference_num_threads(options.num_threads));
    if (options.precision_mode != "enforce_fp32") {
      try {
        model_ = core_.compile_model(model, kCpu, settings);
      } catch (const ov::Exception &error) {  // bfloat16 is chosen on some CPUs that then lack the instructions for it
        std::cerr << "warning: " << options.model << ": OpenVINO cannot compile it in the precision that it prefers ("
                  << LastLine(error) << "), float32 is used\n";
      }
    }
    if (!model_) Compile(options.model, model, settings);
    for (const auto &port : model_.inputs()) inputs.push_back(Description(port));
    for (const auto &port : model_.outputs()) outputs.push_back(Description(port));
  }

  std::unique_ptr<Request> NewRequest() override { return std::make_unique<OpenVinoRequest>(&model_); }

 private:
  void Compile(const std::string &name, const std::shared_ptr<ov::Model> &model, ov::AnyMap settings) try {
    settings.insert(ov::hint::inference_precision(ov::element::f32));
    model_ = core_.compile_model(model, kCpu, settings);
  } catch (const ov::Exception &error) {
    throw Failure(name + ": OpenVINO cannot compile it: " + LastLine(error));
  }

  // A model of any size is given the shape asked for; one of a fixed size that differs is left for the caller to refuse.
  std::shared_ptr<ov::Model> ReadModel(const Options &options) try {
    const std::shared_ptr<ov::Model> model = core_.read_model(options.model);
    const ov::PartialShape asked(options.input_shape);
    if (!options.input_shape.empty() && model->inputs().size() == 1 && model->input().get_partial_shape().compatible(asked)) {
      model->reshape(asked);
    }
    return model;
  } catch (const ov::Exception &error) {
    throw BadInput(options.model + ": OpenVINO refuses it: " + LastLine(error));
  }

  ov::Core core_;
  ov::CompiledModel model_;
};

}  // namespace
}  // namespace infer

infer::Engine *NewEngine(const infer::Options &options) { return new infer::OpenVinoEngine(options); }
