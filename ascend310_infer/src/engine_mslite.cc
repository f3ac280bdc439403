// MindSpore Lite on an Ascend card or the CPU: .mindir. https://www.mindspore.cn/lite, "Model Inference (C++)"
#include <include/api/context.h>
#include <include/api/model.h>

#include <map>

#include "engine.h"
#include "errors.h"

namespace infer {
namespace {

namespace ms = mindspore;

std::string TypeName(ms::DataType type) {
  static const std::map<ms::DataType, std::string> names = {
      {ms::DataType::kNumberTypeFloat32, "float32"}, {ms::DataType::kNumberTypeFloat16, "float16"},
      {ms::DataType::kNumberTypeFloat64, "float64"}, {ms::DataType::kNumberTypeBool, "bool"},
      {ms::DataType::kNumberTypeInt8, "int8"},       {ms::DataType::kNumberTypeInt16, "int16"},
      {ms::DataType::kNumberTypeInt32, "int32"},     {ms::DataType::kNumberTypeInt64, "int64"},
      {ms::DataType::kNumberTypeUInt8, "uint8"},     {ms::DataType::kNumberTypeUInt16, "uint16"},
      {ms::DataType::kNumberTypeUInt32, "uint32"},   {ms::DataType::kNumberTypeUInt64, "uint64"}};
  const auto found = names.find(type);
  return found == names.end() ? "type " + std::to_string(static_cast<int>(type)) : found->second;
}

std::vector<Tensor> Describe(const std::vector<ms::MSTensor> &tensors) {
  std::vector<Tensor> described;
  for (const ms::MSTensor &tensor : tensors) {
    described.push_back({tensor.Name(), TypeName(tensor.DataType()), tensor.Shape(), tensor.DataSize()});
  }
  return described;
}

std::shared_ptr<ms::Context> NewContext(const Options &options) {
  auto context = std::make_shared<ms::Context>();
  if (options.device_type == "CPU") {
    if (options.num_threads > 0) context->SetThreadNum(options.num_threads);
    auto cpu = std::make_shared<ms::CPUDeviceInfo>();
    cpu->SetEnableFP16(options.precision_mode == "enforce_fp16");
    context->MutableDeviceInfo().push_back(cpu);
  } else {
    auto ascend = std::make_shared<ms::AscendDeviceInfo>();
    ascend->SetDeviceID(static_cast<uint32_t>(options.device_id));
    ascend->SetPrecisionMode(options.precision_mode);
    context->MutableDeviceInfo().push_back(ascend);
  }
  return context;
}

// A model may not run twice at once, so every request has its own.
std::unique_ptr<ms::Model> NewModel(const Options &options) {
  auto model = std::make_unique<ms::Model>();
  const ms::Status built = model->Build(options.model, ms::kMindIR, NewContext(options));
  if (built.IsError()) {
    throw BadInput(options.model + ": MindSpore Lite refuses it on " + options.device_type + ": " + built.ToString() +
                   "; its version must not be older than the MindSpore that exported the file");
  }
  const std::vector<ms::MSTensor> inputs = model->GetInputs();
  if (!options.input_shape.empty() && inputs.size() == 1 && inputs.front().Shape() != options.input_shape) {
    const ms::Status resized = model->Resize(inputs, {options.input_shape});
    if (resized.IsError()) {
      throw BadInput("--input_shape " + ShapeText(options.input_shape) + ": " + options.model + " does not take it: " +
                     resized.ToString());
    }
  }
  return model;
}

class MsLiteRequest : public Request {
 public:
  MsLiteRequest(std::unique_ptr<ms::Model> model, const Engine &engine)
      : engine_(engine), model_(std::move(model)), inputs_(model_->GetInputs()) {
    if (inputs_.front().MutableData() == nullptr) throw Failure("MindSpore Lite: no memory for the input");
  }

  uint8_t *Input() override { return static_cast<uint8_t *>(inputs_.front().MutableData()); }

  void Run() override {
    const ms::Status status = model_->Predict(inputs_, &outputs_);
    if (status.IsError()) throw Failure("MindSpore Lite: Predict failed: " + status.ToString());
    for (size_t i = 0; i < engine_.outputs.size(); ++i) {
      if (i >= outputs_.size() || outputs_[i].DataSize() != engine_.outputs[i].bytes || outputs_[i].MutableData() == nullptr) {
        throw Failure("MindSpore Lite: Predict gave no such output as " + engine_.outputs[i].name + " was said to be");
      }
    }
  }

  const uint8_t *Output(size_t index) override { return static_cast<const uint8_t *>(outputs_[index].MutableData()); }

 private:
  const Engine &engine_;
  std::unique_ptr<ms::Model> model_;
  std::vector<ms::MSTensor> inputs_;
  std::vector<ms::MSTensor> outputs_;
};

class MsLiteEngine : public Engine {
 public:
  explicit MsLiteEngine(const Options &options) : options_(options), first_(NewModel(options)) {
    inputs = Describe(first_->GetInputs());
    outputs = Describe(first_->GetOutputs());
  }

  std::unique_ptr<Request> NewRequest() override {
    return std::make_unique<MsLiteRequest>(first_ ? std::move(first_) : NewModel(options_), *this);
  }

 private:
  Options options_;
  std::unique_ptr<ms::Model> first_;  // described here, given to the first request
};

}  // namespace
}  // namespace infer

infer::Engine *NewEngine(const infer::Options &options) { return new infer::MsLiteEngine(options); }
