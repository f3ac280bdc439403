// A libmindspore-lite of our own: the methods that ascend310_infer calls. A .mindir is the text that fake_ascendcl.cc
// describes, with the same arithmetic; a size of -1 is set by Resize.
//
// FAKE_MSLITE_FAIL=Build|Resize|Predict  that method fails      FAKE_MSLITE_LOG=FILE  gets the device and settings of each Build
#include <include/api/context.h>
#include <include/api/model.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace mindspore {

// --- status -----------------------------------------------------------------------------------------------------------

struct Status::Data {
  enum StatusCode code;
  std::vector<char> message;
};

Status::Status() : Status(kSuccess, std::vector<char>()) {}
Status::Status(enum StatusCode code, const std::vector<char> &message) : data_(std::make_shared<Data>(Data{code, message})) {}
bool Status::IsError() const { return data_->code != kSuccess; }
std::vector<char> Status::ToCString() const { return data_->message; }

namespace {

Status Result(const std::string &method) {
  const char *failing = std::getenv("FAKE_MSLITE_FAIL");
  return failing != nullptr && failing == method ? Status(kLiteError, method + " was told to fail") : Status(kSuccess);
}

}  // namespace

// --- tensors ----------------------------------------------------------------------------------------------------------

class MSTensor::Impl {
 public:
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;

  void SetShape(const std::vector<int64_t> &sizes) {
    shape = sizes;
    int64_t count = 1;
    for (const int64_t size : shape) count *= std::max<int64_t>(size, 0);
    values.assign(static_cast<size_t>(count), 0.0f);
  }
};

MSTensor::MSTensor(const std::shared_ptr<Impl> &impl) : impl_(impl) {}
MSTensor::~MSTensor() = default;
std::vector<char> MSTensor::CharName() const { return StringToChar(impl_->name); }
enum DataType MSTensor::DataType() const { return DataType::kNumberTypeFloat32; }
const std::vector<int64_t> &MSTensor::Shape() const { return impl_->shape; }
void *MSTensor::MutableData() { return impl_->values.data(); }
size_t MSTensor::DataSize() const { return impl_->values.size() * sizeof(float); }

// --- settings ---------------------------------------------------------------------------------------------------------

struct Context::Data {
  int32_t threads = 0;
  std::vector<std::shared_ptr<DeviceInfoContext>> devices;
};

struct DeviceInfoContext::Data {
  uint32_t id = 0;
  std::vector<char> precision;
  bool fp16 = false;
};

Context::Context() : data_(std::make_shared<Data>()) {}
void Context::SetThreadNum(int32_t threads) { data_->threads = threads; }
int32_t Context::GetThreadNum() const { return data_->threads; }
std::vector<std::shared_ptr<DeviceInfoContext>> &Context::MutableDeviceInfo() { return data_->devices; }
DeviceInfoContext::DeviceInfoContext() : data_(std::make_shared<Data>()) {}
void CPUDeviceInfo::SetEnableFP16(bool on) { data_->fp16 = on; }
bool CPUDeviceInfo::GetEnableFP16() const { return data_->fp16; }
void AscendDeviceInfo::SetDeviceID(uint32_t id) { data_->id = id; }
uint32_t AscendDeviceInfo::GetDeviceID() const { return data_->id; }
void AscendDeviceInfo::SetPrecisionMode(const std::vector<char> &mode) { data_->precision = mode; }
std::vector<char> AscendDeviceInfo::GetPrecisionModeChar() const { return data_->precision; }

// --- model ------------------------------------------------------------------------------------------------------------

class ModelImpl {
 public:
  std::vector<MSTensor> inputs;
  std::vector<MSTensor> outputs;
};

namespace {

void Log(const std::shared_ptr<Context> &context) {
  const char *path = std::getenv("FAKE_MSLITE_LOG");
  if (path == nullptr) return;
  std::ofstream log(path, std::ios::app);
  const auto device = context->MutableDeviceInfo().at(0);
  if (const auto ascend = device->Cast<AscendDeviceInfo>()) {
    log << "Ascend " << ascend->GetDeviceID() << ' ' << ascend->GetPrecisionMode() << '\n';
  } else {
    log << "CPU " << context->GetThreadNum() << ' ' << device->Cast<CPUDeviceInfo>()->GetEnableFP16() << '\n';
  }
}

}  // namespace

Model::Model() : impl_(std::make_shared<ModelImpl>()) {}
Model::~Model() = default;

Status Model::Build(const std::vector<char> &path, ModelType type, const std::shared_ptr<Context> &context) {
  Log(context);
  std::ifstream file(CharToString(path));
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    auto tensor = std::make_shared<MSTensor::Impl>();
    std::string kind;
    std::vector<int64_t> shape;
    words >> kind >> tensor->name;
    for (int64_t size; words >> size;) shape.push_back(size);
    if (kind != "input" && kind != "output") return Status(kLiteError, "not a model");
    tensor->SetShape(shape);
    (kind == "input" ? impl_->inputs : impl_->outputs).push_back(MSTensor(tensor));
  }
  return type == kMindIR ? Result("Build") : Status(kLiteError, "another kind of model");
}

std::vector<MSTensor> Model::GetInputs() { return impl_->inputs; }
std::vector<MSTensor> Model::GetOutputs() { return impl_->outputs; }

Status Model::Resize(const std::vector<MSTensor> &inputs, const std::vector<std::vector<int64_t>> &shapes) {
  inputs.at(0).impl()->SetShape(shapes.at(0));
  for (const MSTensor &output : impl_->outputs) {
    std::vector<int64_t> shape = output.Shape();
    shape[0] = shapes[0][0];
    output.impl()->SetShape(shape);
  }
  return Result("Resize");
}

Status Model::Predict(const std::vector<MSTensor> &inputs, std::vector<MSTensor> *outputs, const MSKernelCallBack &,
                      const MSKernelCallBack &) {
  const std::vector<float> &in = inputs.at(0).impl()->values;
  const size_t batch = static_cast<size_t>(inputs[0].Shape()[0]);
  const size_t sample = in.size() / batch;
  for (size_t j = 0; j < impl_->outputs.size(); ++j) {
    std::vector<float> &out = impl_->outputs[j].impl()->values;
    const size_t elements = out.size() / batch;
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t n = i / elements, k = i % elements;
      out[i] = static_cast<float>(j + 1) * in[n * sample + k % sample] + static_cast<float>(k);
    }
  }
  *outputs = impl_->outputs;
  return Result("Predict");
}

}  // namespace mindspore
