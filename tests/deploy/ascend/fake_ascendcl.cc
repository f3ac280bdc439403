// A libascendcl of our own, for machines without an Ascend: the functions that ascend310_infer calls, with the checks that no
// card would make so plainly. Device memory cannot be touched from the host; at aclFinalize nothing may be left.
//
// An .om is text, a line for each tensor: "input NAME SIZE..." or "output NAME SIZE...", all float32. Of sample n, element k of
// output j is  (j + 1) * input[n][k mod size of a sample] + k.
//
// FAKE_ACL_FAIL=FUNCTION:N  the N-th call of a function fails    FAKE_ACL_LOG=FILE  gets the name of each function called
// FAKE_ACL_DEVICES=N        number of devices (default 1)        A violation ends the process with status 99.
// A device has 256 MB, and the host gives as much at once: what is more is refused like on a card.
#include <acl/acl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr aclError kInjected = 507899;
constexpr size_t kMemory = 256 << 20;

struct FakeTensor {
  std::string name;
  std::vector<int64_t> shape;

  size_t Elements() const {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    return count;
  }
  size_t Bytes() const { return Elements() * sizeof(float); }
};

struct FakeModel {
  std::vector<FakeTensor> inputs;
  std::vector<FakeTensor> outputs;
  aclrtContext context;
  bool running = false;
};

[[noreturn]] void Violation(const std::string &what) {
  std::fprintf(stderr, "fake AscendCL: violation: %s\n", what.c_str());
  _exit(99);
}

const char *Environment(const char *name, const char *otherwise) {
  const char *value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

thread_local aclrtContext current = nullptr;

}  // namespace

struct aclmdlDesc {
  FakeModel *model = nullptr;
};
struct aclDataBuffer {
  void *data;
  size_t size;
};
struct aclmdlDataset {
  std::vector<aclDataBuffer *> buffers;
};

namespace {

struct State {
  std::mutex mutex;
  bool initialised = false;
  std::atomic<bool> injected{false};
  std::map<std::string, int> calls;
  std::multiset<int32_t> devices;
  std::set<void *> contexts;
  std::map<void *, std::vector<uint8_t>> device_memory;  // by an address that is reserved, but cannot be read
  std::set<void *> host_memory;
  std::map<uint32_t, FakeModel> models;
  std::set<const void *> objects;  // descriptions, datasets and data buffers
  uint32_t next_model = 1;

  ~State() {
    if (initialised) Violation("the process ends without aclFinalize");
  }
} state;

// The beginning of every function: one at a time, in the log, after aclInit.
struct Call {
  Call(const char *name, bool needs_context) : lock(state.mutex) {
    if (!state.initialised && std::strcmp(name, "aclInit") != 0) Violation(std::string(name) + " before aclInit");
    if (needs_context && state.contexts.count(current) == 0) Violation(std::string(name) + " without a context in this thread");
    if (const char *path = std::getenv("FAKE_ACL_LOG")) std::ofstream(path, std::ios::app) << name << '\n';
    const std::string this_one = std::string(name) + ":" + std::to_string(++state.calls[name]);
    fails = this_one == Environment("FAKE_ACL_FAIL", "");
    state.injected = state.injected || fails;
  }
  aclError Result() const { return fails ? kInjected : ACL_SUCCESS; }

  std::unique_lock<std::mutex> lock;
  bool fails;
};

template <typename Container, typename Key>
void Remove(Container *container, Key key, const char *what) {
  const auto found = container->find(key);
  if (found == container->end()) Violation(std::string(what) + " given back that was not handed out, or twice");
  container->erase(found);
}

template <typename T>
T *Created(const Call &call, T object) {
  if (call.fails) return nullptr;
  T *created = new T(object);
  state.objects.insert(created);
  return created;
}

template <typename T>
aclError Destroyed(const Call &call, const T *object, const char *what) {
  Remove(&state.objects, static_cast<const void *>(object), what);
  delete object;
  return call.Result();
}

void Known(const void *object, const char *what) {
  if (state.objects.count(object) == 0) Violation(std::string(what) + " that is not there");
}

std::vector<uint8_t> &OnDevice(void *address, size_t bytes, const char *what) {
  const auto found = state.device_memory.find(address);
  if (found == state.device_memory.end()) Violation(std::string(what) + " is no device memory");
  if (found->second.size() < bytes) Violation(std::string(what) + " is too small");
  return found->second;
}

const FakeModel &Described(const aclmdlDesc *desc) {
  Known(desc, "a description");
  if (desc->model == nullptr) Violation("a description before aclmdlGetDesc");
  return *desc->model;
}

void SetDims(const FakeTensor &tensor, aclmdlIODims *dims) {
  std::snprintf(dims->name, sizeof dims->name, "%s", tensor.name.c_str());
  dims->dimCount = tensor.shape.size();
  std::copy(tensor.shape.begin(), tensor.shape.end(), dims->dims);
}

bool Parse(const char *path, FakeModel *model) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind;
    FakeTensor tensor;
    words >> kind >> tensor.name;
    for (int64_t size; words >> size;) tensor.shape.push_back(size);
    if (kind != "input" && kind != "output") return false;
    (kind == "input" ? model->inputs : model->outputs).push_back(tensor);
  }
  return !model->inputs.empty() && !model->outputs.empty();
}

const std::vector<aclDataBuffer *> &Buffers(const aclmdlDataset *dataset, const std::vector<FakeTensor> &tensors) {
  Known(dataset, "a dataset");
  if (dataset->buffers.size() != tensors.size()) Violation("a dataset of another length than the model's");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const aclDataBuffer *buffer = dataset->buffers[i];
    Known(buffer, "a data buffer");
    if (buffer->size != tensors[i].Bytes()) Violation("a data buffer of another size than the model's");
    OnDevice(buffer->data, buffer->size, "a data buffer");
  }
  return dataset->buffers;
}

}  // namespace

aclError aclInit(const char *) {
  const Call call("aclInit", false);
  if (state.initialised) Violation("aclInit twice");
  state.initialised = !call.fails;
  return call.Result();
}

aclError aclFinalize() {
  const Call call("aclFinalize", false);
  const size_t left = state.devices.size() + state.contexts.size() + state.device_memory.size() + state.host_memory.size() +
                      state.models.size() + state.objects.size();
  if (left > 0) Violation("aclFinalize with " + std::to_string(left) + " things not given back");
  state.initialised = false;
  return call.Result();
}

const char *aclGetRecentErrMsg() { return state.injected ? "E99999: told to fail" : nullptr; }

aclError aclrtGetDeviceCount(uint32_t *count) {
  const Call call("aclrtGetDeviceCount", false);
  *count = static_cast<uint32_t>(std::atoi(Environment("FAKE_ACL_DEVICES", "1")));
  return call.Result();
}

aclError aclrtSetDevice(int32_t id) {
  const Call call("aclrtSetDevice", false);
  if (call.fails || id < 0 || id >= std::atoi(Environment("FAKE_ACL_DEVICES", "1"))) return kInjected;
  state.devices.insert(id);
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t id) {
  const Call call("aclrtResetDevice", false);
  if (!state.contexts.empty()) Violation("aclrtResetDevice before aclrtDestroyContext");
  Remove(&state.devices, id, "a device");
  return call.Result();
}

aclError aclrtCreateContext(aclrtContext *context, int32_t device) {
  const Call call("aclrtCreateContext", false);
  if (state.devices.count(device) == 0) Violation("a context for a device that was not set");
  if (call.fails) return kInjected;
  current = *context = new int(device);
  state.contexts.insert(current);
  return ACL_SUCCESS;
}

aclError aclrtDestroyContext(aclrtContext context) {
  const Call call("aclrtDestroyContext", false);
  if (!state.models.empty() || !state.device_memory.empty()) Violation("aclrtDestroyContext before models and memory of it");
  Remove(&state.contexts, context, "a context");
  delete static_cast<int *>(context);
  return call.Result();
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  const Call call("aclrtSetCurrentContext", false);
  if (state.contexts.count(context) == 0) Violation("aclrtSetCurrentContext of a context that is not there");
  current = call.fails ? current : context;
  return call.Result();
}

aclError aclrtMalloc(void **memory, size_t size, aclrtMemMallocPolicy) {
  const Call call("aclrtMalloc", true);
  if (size == 0) Violation("aclrtMalloc of 0 bytes");
  if (call.fails) return kInjected;
  size_t taken = 0;
  for (const auto &[address, content] : state.device_memory) taken += content.size();
  if (size > kMemory - taken) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  *memory = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  state.device_memory[*memory].assign(size, 0xCD);
  return ACL_SUCCESS;
}

aclError aclrtFree(void *memory) {
  const Call call("aclrtFree", true);
  const size_t size = OnDevice(memory, 0, "what aclrtFree is given").size();
  Remove(&state.device_memory, memory, "device memory");
  munmap(memory, size);
  return call.Result();
}

aclError aclrtMallocHost(void **memory, size_t size) {
  const Call call("aclrtMallocHost", true);
  if (call.fails) return kInjected;
  if (size > kMemory) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  *memory = std::malloc(size);
  state.host_memory.insert(*memory);
  return ACL_SUCCESS;
}

aclError aclrtFreeHost(void *memory) {
  const Call call("aclrtFreeHost", true);
  Remove(&state.host_memory, memory, "host memory");
  std::free(memory);
  return call.Result();
}

aclError aclrtMemcpy(void *to, size_t most, const void *from, size_t count, aclrtMemcpyKind kind) {
  const Call call("aclrtMemcpy", true);
  if (count > most) Violation("aclrtMemcpy of more than there is room for");
  if (call.fails) return kInjected;
  if (kind == ACL_MEMCPY_HOST_TO_DEVICE) {
    std::memcpy(OnDevice(to, most, "aclrtMemcpy's destination").data(), from, count);
  } else if (kind == ACL_MEMCPY_DEVICE_TO_HOST) {
    std::memcpy(to, OnDevice(const_cast<void *>(from), count, "aclrtMemcpy's source").data(), count);
  } else {
    Violation("aclrtMemcpy of an unexpected kind");
  }
  return ACL_SUCCESS;
}

aclError aclmdlLoadFromFile(const char *path, uint32_t *id) {
  const Call call("aclmdlLoadFromFile", true);
  FakeModel model;
  if (call.fails || !Parse(path, &model)) return call.fails ? kInjected : ACL_ERROR_DESERIALIZE_MODEL;
  model.context = current;
  *id = state.next_model++;
  state.models[*id] = model;
  return ACL_SUCCESS;
}

aclError aclmdlUnload(uint32_t id) {
  const Call call("aclmdlUnload", true);
  Remove(&state.models, id, "a model");
  return call.Result();
}

aclmdlDesc *aclmdlCreateDesc() { return Created(Call("aclmdlCreateDesc", false), aclmdlDesc{}); }

aclError aclmdlDestroyDesc(aclmdlDesc *desc) {
  return Destroyed(Call("aclmdlDestroyDesc", false), desc, "a description");
}

aclError aclmdlGetDesc(aclmdlDesc *desc, uint32_t id) {
  const Call call("aclmdlGetDesc", true);
  Known(desc, "a description");
  if (state.models.count(id) == 0) Violation("aclmdlGetDesc of a model that is not loaded");
  desc->model = &state.models[id];
  return call.Result();
}

size_t aclmdlGetNumInputs(aclmdlDesc *desc) {
  const Call call("aclmdlGetNumInputs", false);
  return Described(desc).inputs.size();
}

size_t aclmdlGetNumOutputs(aclmdlDesc *desc) {
  const Call call("aclmdlGetNumOutputs", false);
  return Described(desc).outputs.size();
}

aclError aclmdlGetInputDims(const aclmdlDesc *desc, size_t index, aclmdlIODims *dims) {
  const Call call("aclmdlGetInputDims", false);
  SetDims(Described(desc).inputs.at(index), dims);
  return call.Result();
}

aclError aclmdlGetOutputDims(const aclmdlDesc *desc, size_t index, aclmdlIODims *dims) {
  const Call call("aclmdlGetOutputDims", false);
  SetDims(Described(desc).outputs.at(index), dims);
  return call.Result();
}

aclDataType aclmdlGetInputDataType(const aclmdlDesc *desc, size_t index) {
  const Call call("aclmdlGetInputDataType", false);
  return Described(desc).inputs.at(index).shape.empty() ? ACL_DT_UNDEFINED : ACL_FLOAT;
}

aclDataType aclmdlGetOutputDataType(const aclmdlDesc *desc, size_t index) {
  const Call call("aclmdlGetOutputDataType", false);
  return Described(desc).outputs.at(index).shape.empty() ? ACL_DT_UNDEFINED : ACL_FLOAT;
}

size_t aclmdlGetInputSizeByIndex(aclmdlDesc *desc, size_t index) {
  const Call call("aclmdlGetInputSizeByIndex", false);
  return call.fails ? 0 : Described(desc).inputs.at(index).Bytes();
}

size_t aclmdlGetOutputSizeByIndex(aclmdlDesc *desc, size_t index) {
  const Call call("aclmdlGetOutputSizeByIndex", false);
  return call.fails ? 0 : Described(desc).outputs.at(index).Bytes();
}

aclmdlDataset *aclmdlCreateDataset() { return Created(Call("aclmdlCreateDataset", false), aclmdlDataset{}); }

aclError aclmdlDestroyDataset(const aclmdlDataset *dataset) {
  return Destroyed(Call("aclmdlDestroyDataset", false), dataset, "a dataset");
}

aclError aclmdlAddDatasetBuffer(aclmdlDataset *dataset, aclDataBuffer *buffer) {
  const Call call("aclmdlAddDatasetBuffer", false);
  Known(dataset, "a dataset");
  Known(buffer, "a data buffer");
  if (!call.fails) dataset->buffers.push_back(buffer);
  return call.Result();
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
  return Created(Call("aclCreateDataBuffer", false), aclDataBuffer{data, size});
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
  return Destroyed(Call("aclDestroyDataBuffer", false), buffer, "a data buffer");
}

aclError aclmdlExecute(uint32_t id, const aclmdlDataset *input, aclmdlDataset *output) {
  Call call("aclmdlExecute", true);
  if (state.models.count(id) == 0) Violation("aclmdlExecute of a model that is not loaded");
  FakeModel &model = state.models[id];
  if (model.context != current) Violation("aclmdlExecute in another context than the model was loaded in");
  if (model.running) Violation("aclmdlExecute of a model that is running");
  const std::vector<aclDataBuffer *> &from = Buffers(input, model.inputs);
  const std::vector<aclDataBuffer *> &to = Buffers(output, model.outputs);
  model.running = true;
  call.lock.unlock();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  call.lock.lock();
  model.running = false;
  if (call.fails) return kInjected;
  const size_t batch = static_cast<size_t>(model.inputs[0].shape[0]);
  const size_t sample = model.inputs[0].Elements() / batch;
  const float *in = reinterpret_cast<const float *>(state.device_memory[from[0]->data].data());
  for (size_t j = 0; j < to.size(); ++j) {
    float *out = reinterpret_cast<float *>(state.device_memory[to[j]->data].data());
    const size_t elements = model.outputs[j].Elements() / batch;
    for (size_t i = 0; i < elements * batch; ++i) {
      const size_t n = i / elements, k = i % elements;
      out[i] = static_cast<float>(j + 1) * in[n * sample + k % sample] + static_cast<float>(k);
    }
  }
  return ACL_SUCCESS;
}
