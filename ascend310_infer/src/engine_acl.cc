// AscendCL on an Ascend card: .om, as made by ATC. CANN, "Application Development (C&C++)", model inference.
#include <acl/acl.h>

#include <cstdio>
#include <map>
#include <new>

#include "engine.h"
#include "errors.h"
#include "printable.h"

namespace infer {
namespace {

std::string Explain(const std::string &call, aclError code) {
  const char *text = aclGetRecentErrMsg();
  return call + " failed with error " + std::to_string(code) + (text != nullptr ? std::string(": ") + text : "");
}

void Require(aclError code, const std::string &call) {
  if (code == ACL_ERROR_RT_MEMORY_ALLOCATION || code == ACL_ERROR_BAD_ALLOC) throw std::bad_alloc();
  if (code != ACL_SUCCESS) throw Failure(Explain(call, code));
}

// What cannot be given back is worth a line, not the results.
void Warn(aclError code, const char *what) {
  if (code != ACL_SUCCESS) std::fprintf(stderr, "warning: %s\n", Line(Explain(std::string("giving back ") + what, code)).c_str());
}

#define REQUIRE(call, ...) Require(call(__VA_ARGS__), #call)

template <auto kRelease>
struct Releaser {
  template <typename T>
  void operator()(T *object) const {
    Warn(kRelease(object), "memory");
  }
};

template <typename T, auto kRelease>
using Owned = std::unique_ptr<T, Releaser<kRelease>>;
using DeviceMemory = Owned<void, aclrtFree>;
using HostMemory = Owned<void, aclrtFreeHost>;
using Description = Owned<aclmdlDesc, aclmdlDestroyDesc>;
using Dataset = Owned<aclmdlDataset, aclmdlDestroyDataset>;
using DataBuffer = Owned<aclDataBuffer, aclDestroyDataBuffer>;

template <typename T>
T *Created(T *object, const char *call) {
  if (object == nullptr) throw Failure(Explain(call, ACL_ERROR_BAD_ALLOC));
  return object;
}

struct NotCopied {
  NotCopied() = default;
  NotCopied(const NotCopied &) = delete;
  NotCopied &operator=(const NotCopied &) = delete;
};

struct Process : NotCopied {
  Process() { REQUIRE(aclInit, nullptr); }
  ~Process() { Warn(aclFinalize(), "AscendCL"); }
};

struct Device : NotCopied {
  explicit Device(int number) : id(number) {
    uint32_t count = 0;
    REQUIRE(aclrtGetDeviceCount, &count);
    if (static_cast<uint32_t>(id) >= count) {
      throw BadInput("--device_id " + std::to_string(id) + ": this machine has " + std::to_string(count) +
                     (count == 1 ? " device, 0" : " devices, counted from 0") + "; `npu-smi info` lists them");
    }
    if (const aclError code = aclrtSetDevice(id)) {
      throw Failure("device " + std::to_string(id) + ": " + Explain("aclrtSetDevice", code) +
                    "; `npu-smi info` says what it does, --device_id chooses another");
    }
  }
  ~Device() { Warn(aclrtResetDevice(id), "the device"); }

  int id;
};

struct Context : NotCopied {
  explicit Context(int device) { REQUIRE(aclrtCreateContext, &handle, device); }
  ~Context() { Warn(aclrtDestroyContext(handle), "the context"); }

  aclrtContext handle = nullptr;
};

// A loaded model. It may not run twice at once, so every request has its own.
struct Model : NotCopied {
  explicit Model(const std::string &path) {
    if (const aclError code = aclmdlLoadFromFile(path.c_str(), &id)) {
      throw BadInput(path + ": " + Explain("aclmdlLoadFromFile", code) +
                     "; is it an .om that ATC made for this card's soc version?");
    }
  }
  ~Model() { Warn(aclmdlUnload(id), "the model"); }

  uint32_t id = 0;
};

std::string TypeName(aclDataType type) {
  static const std::map<aclDataType, std::string> names = {
      {ACL_FLOAT, "float32"}, {ACL_FLOAT16, "float16"}, {ACL_BF16, "bfloat16"}, {ACL_DOUBLE, "float64"}, {ACL_BOOL, "bool"},
      {ACL_INT8, "int8"},     {ACL_INT16, "int16"},     {ACL_INT32, "int32"},   {ACL_INT64, "int64"},    {ACL_UINT8, "uint8"},
      {ACL_UINT16, "uint16"}, {ACL_UINT32, "uint32"},   {ACL_UINT64, "uint64"}};
  const auto found = names.find(type);
  return found == names.end() ? "type " + std::to_string(type) : found->second;
}

Tensor Describe(const aclmdlIODims &dims, aclDataType type, size_t bytes) {
  return {dims.name, TypeName(type), Shape(dims.dims, dims.dims + dims.dimCount), bytes};
}

// Host and device memory of one input or output.
struct Buffer {
  explicit Buffer(size_t size) : bytes(size) {
    void *memory = nullptr;
    REQUIRE(aclrtMallocHost, &memory, bytes);
    host.reset(memory);
    REQUIRE(aclrtMalloc, &memory, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
    device.reset(memory);
    data.reset(Created(aclCreateDataBuffer(device.get(), bytes), "aclCreateDataBuffer"));
  }

  size_t bytes;
  HostMemory host;
  DeviceMemory device;
  DataBuffer data;
};

class AclRequest : public Request {
 public:
  AclRequest(const Context &context, std::unique_ptr<Model> model, const Engine &engine)
      : context_(context), model_(std::move(model)), input_(engine.inputs.front().bytes) {
    input_set_.reset(Created(aclmdlCreateDataset(), "aclmdlCreateDataset"));
    REQUIRE(aclmdlAddDatasetBuffer, input_set_.get(), input_.data.get());
    output_set_.reset(Created(aclmdlCreateDataset(), "aclmdlCreateDataset"));
    for (const Tensor &output : engine.outputs) {
      outputs_.push_back(std::make_unique<Buffer>(output.bytes));
      REQUIRE(aclmdlAddDatasetBuffer, output_set_.get(), outputs_.back()->data.get());
    }
  }

  uint8_t *Input() override { return static_cast<uint8_t *>(input_.host.get()); }

  void Run() override {
    REQUIRE(aclrtSetCurrentContext, context_.handle);
    REQUIRE(aclrtMemcpy, input_.device.get(), input_.bytes, input_.host.get(), input_.bytes, ACL_MEMCPY_HOST_TO_DEVICE);
    REQUIRE(aclmdlExecute, model_->id, input_set_.get(), output_set_.get());
    for (const auto &output : outputs_) {
      REQUIRE(aclrtMemcpy, output->host.get(), output->bytes, output->device.get(), output->bytes, ACL_MEMCPY_DEVICE_TO_HOST);
    }
  }

  const uint8_t *Output(size_t index) override { return static_cast<const uint8_t *>(outputs_[index]->host.get()); }

 private:
  const Context &context_;
  std::unique_ptr<Model> model_;
  Buffer input_;
  std::vector<std::unique_ptr<Buffer>> outputs_;
  Dataset input_set_;
  Dataset output_set_;
};

class AclEngine : public Engine {
 public:
  explicit AclEngine(const Options &options)
      : path_(options.model), device_(options.device_id), context_(device_.id), first_(std::make_unique<Model>(path_)) {
    const Description description(Created(aclmdlCreateDesc(), "aclmdlCreateDesc"));
    aclmdlDesc *desc = description.get();
    REQUIRE(aclmdlGetDesc, desc, first_->id);
    aclmdlIODims dims;
    for (size_t i = 0; i < aclmdlGetNumInputs(desc); ++i) {
      REQUIRE(aclmdlGetInputDims, desc, i, &dims);
      inputs.push_back(Describe(dims, aclmdlGetInputDataType(desc, i), aclmdlGetInputSizeByIndex(desc, i)));
    }
    for (size_t i = 0; i < aclmdlGetNumOutputs(desc); ++i) {
      REQUIRE(aclmdlGetOutputDims, desc, i, &dims);
      outputs.push_back(Describe(dims, aclmdlGetOutputDataType(desc, i), aclmdlGetOutputSizeByIndex(desc, i)));
    }
  }

  std::unique_ptr<Request> NewRequest() override {
    std::unique_ptr<Model> model = first_ ? std::move(first_) : std::make_unique<Model>(path_);
    return std::make_unique<AclRequest>(context_, std::move(model), *this);
  }

 private:
  std::string path_;
  Process process_;
  Device device_;
  Context context_;
  std::unique_ptr<Model> first_;  // described here, given to the first request
};

}  // namespace
}  // namespace infer

infer::Engine *NewEngine(const infer::Options &options) { return new infer::AclEngine(options); }
