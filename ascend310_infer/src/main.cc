// Runs a model over a folder of preprocessed inputs; --help says how.
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include "engine.h"
#include "errors.h"
#include "files.h"
#include "options.h"
#include "printable.h"
#include "runner.h"

namespace infer {
namespace {

void Run(const Options &options) {
  const std::vector<Path> inputs = ListInputs(options.inputs);
  MakeFolder(options.result_path);
  MakeFolder(options.time_path);
  if (std::filesystem::equivalent(options.result_path, options.inputs)) {
    throw BadInput("--result_path " + options.result_path + ": results would lie among the inputs; choose another folder");
  }
  const std::unique_ptr<Engine> engine = OpenEngine(options);
  std::printf("model: %s\ninput: %s\n", Line(options.model).c_str(),
              Line(Describe(engine->inputs.front())).c_str());
  for (const Tensor &output : engine->outputs) std::printf("output: %s\n", Line(Describe(output)).c_str());
  const std::string summary = Summary(RunAll(engine.get(), inputs, options), inputs.size());
  Write(Path(options.time_path) / "test_perform_static.txt", summary.data(), summary.size());
  std::fputs(summary.c_str(), stdout);
}

}  // namespace
}  // namespace infer

int main(int argc, char **argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is then an error of the write
  try {
    const infer::Options options = infer::ParseOptions({argv + 1, argv + argc});
    if (options.help) {
      std::fputs(infer::HelpText().c_str(), stdout);
    } else {
      infer::Run(options);
    }
    return 0;
  } catch (const infer::BadInput &error) {
    std::fprintf(stderr, "error: %s\n", infer::Line(error.what()).c_str());
    return 2;
  } catch (const std::bad_alloc &) {  // what is allocated has the sizes that the model says
    std::fputs("error: the model and its batches take more memory than there is; export it for a smaller batch\n", stderr);
    return 2;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", infer::Line(error.what()).c_str());
    return 1;
  }
}
