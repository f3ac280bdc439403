#include "runner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

namespace infer {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Runner {
 public:
  Runner(Engine *engine, const std::vector<Path> &inputs, const Options &options)
      : inputs_(inputs), folder_(options.result_path), outputs_(engine->outputs), input_(engine->inputs.front()),
        dump_(options.dump) {
    const Tensor &input = engine->inputs.front();
    if (!dump_.empty()) MakeFolder(dump_);
    batch_ = input.shape.empty() ? 1 : static_cast<size_t>(input.shape.front());
    sample_bytes_ = input.bytes / batch_;
    for (const Path &file : inputs) CheckSize(file, sample_bytes_, "one sample of " + Describe(input));
    batches_ = (inputs.size() + batch_ - 1) / batch_;
    for (size_t i = 0; i < std::min<size_t>(options.streams, batches_); ++i) requests_.push_back(engine->NewRequest());
    for (auto &request : requests_) {
      if (options.warmup > 0) Fill(request.get(), 0);
      for (int i = 0; i < options.warmup; ++i) request->Run();
    }
  }

  Timing Run() {
    const Clock::time_point start = Clock::now();
    std::vector<std::thread> threads;
    for (auto &request : requests_) threads.emplace_back([this, &request] { Work(request.get()); });
    for (std::thread &thread : threads) thread.join();
    if (error_) std::rethrow_exception(error_);
    timing_.elapsed = MillisecondsSince(start);
    return timing_;
  }

 private:
  void Work(Request *request) try {
    for (size_t batch = next_++; batch < batches_ && !stop_; batch = next_++) {
      Fill(request, batch);
      const Clock::time_point start = Clock::now();
      request->Run();
      const double milliseconds = MillisecondsSince(start);
      WriteResults(request, batch);
      if (batch == 0 && !dump_.empty()) Dump(request);
      const std::lock_guard<std::mutex> lock(mutex_);
      timing_.inferences.push_back(milliseconds);
    }
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
    stop_ = true;
  }

  size_t Count(size_t batch) const { return std::min(batch_, inputs_.size() - batch * batch_); }

  void Fill(Request *request, size_t batch) const {
    uint8_t *const memory = request->Input();
    const size_t count = Count(batch);
    for (size_t i = 0; i < count; ++i) Read(inputs_[batch * batch_ + i], memory + i * sample_bytes_, sample_bytes_);
    for (size_t i = count; i < batch_; ++i) {
      std::memcpy(memory + i * sample_bytes_, memory + (count - 1) * sample_bytes_, sample_bytes_);
    }
  }

  void WriteResults(Request *request, size_t batch) const {
    for (size_t output = 0; output < outputs_.size(); ++output) {
      const size_t bytes = outputs_[output].bytes / batch_;
      for (size_t i = 0; i < Count(batch); ++i) {
        const std::string name = Stem(inputs_[batch * batch_ + i]) + "_" + std::to_string(output) + ".bin";
        Write(folder_ / name, request->Output(output) + i * bytes, bytes);
      }
    }
  }

  // What `twinseg trace` reads: floating-point tensors of a whole batch, and a list of them by name.
  void Dump(Request *request) const {
    std::string list;
    const auto add = [&](const Tensor &tensor, const std::string &file, const std::string &layer, const std::string &side) {
      if (tensor.type.rfind("float", 0) != 0) return;
      std::string shape;
      for (const int64_t size : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
      list += list.empty() ? "  " : ",\n  ";
      list += "{\"file\": \"" + file + "\", \"layer\": \"" + Escaped(layer) + "\", \"side\": \"" + side + "\", ";
      list += "\"dtype\": \"" + tensor.type + "\", \"shape\": [" + shape + "]}";
    };
    Write(dump_ / "input.bin", request->Input(), input_.bytes);
    add(input_, "input.bin", "", "input");
    for (size_t output = 0; output < outputs_.size(); ++output) {
      const std::string file = "output_" + std::to_string(output) + ".bin";
      Write(dump_ / file, request->Output(output), outputs_[output].bytes);
      add(outputs_[output], file, outputs_[output].name, "output");
      if (output == 0) add(outputs_[output], file, "", "output");
    }
    list = "{\"tensors\": [\n" + list + "\n]}\n";
    Write(dump_ / "trace.json", list.data(), list.size());
  }

  static std::string Escaped(const std::string &text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '"' || c == '\\') escaped += '\\';
      if (static_cast<unsigned char>(c) >= 0x20) escaped += c;
    }
    return escaped;
  }

  const std::vector<Path> &inputs_;
  Path folder_;
  std::vector<Tensor> outputs_;
  Tensor input_;
  Path dump_;  // empty: nothing is dumped
  size_t batch_;
  size_t sample_bytes_;
  size_t batches_;
  std::vector<std::unique_ptr<Request>> requests_;

  std::atomic<size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // of what follows
  Timing timing_;
  std::exception_ptr error_;
};

double Percentile(const std::vector<double> &sorted, double share) {
  return sorted[static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size()))) - 1];
}

}  // namespace

Timing RunAll(Engine *engine, const std::vector<Path> &inputs, const Options &options) {
  return Runner(engine, inputs, options).Run();
}

std::string Summary(const Timing &timing, size_t inputs) {
  std::vector<double> sorted = timing.inferences;
  std::sort(sorted.begin(), sorted.end());
  const double mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  char text[256];
  std::snprintf(text, sizeof text,
                "NN inference cost average time: %.3f ms of infer_count %zu\np50: %.3f ms, p99: %.3f ms\n"
                "%zu inputs in %.3f ms: %.3f a second, reading and writing included\n",
                mean, sorted.size(), Percentile(sorted, 0.50), Percentile(sorted, 0.99), inputs, timing.elapsed,
                1000 * static_cast<double>(inputs) / timing.elapsed);
  return text;
}

}  // namespace infer
