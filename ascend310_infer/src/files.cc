#include "files.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "errors.h"

namespace infer {
namespace fs = std::filesystem;
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE *)>;

bool IsHidden(const Path &file) { return file.filename().string().front() == '.'; }

// "; it holds 5 .JPEG", of the suffix that is there most often.
std::string OtherFiles(const Path &folder) {
  std::map<std::string, int> counts;
  for (const auto &entry : fs::directory_iterator(folder)) counts[entry.path().extension().string()]++;
  const auto most = std::max_element(counts.begin(), counts.end(), [](auto &a, auto &b) { return a.second < b.second; });
  if (most == counts.end()) return "; it is empty";
  return "; it holds " + std::to_string(most->second) + " " + (most->first.empty() ? "without suffix" : most->first);
}

}  // namespace

std::vector<Path> ListInputs(const Path &folder) try {
  if (!fs::is_directory(folder)) throw BadInput(folder.string() + ": no such folder of inputs");
  std::vector<Path> files;
  for (const auto &entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".bin" && !IsHidden(entry.path())) files.push_back(entry.path());
  }
  if (files.empty()) {
    throw BadInput(folder.string() + ": no .bin inputs" + OtherFiles(folder) + "; preprocessing makes them from images");
  }
  std::sort(files.begin(), files.end());
  std::map<std::string, Path> names;
  for (const Path &file : files) {
    const auto [known, added] = names.emplace(Stem(file), file);
    if (!added) {
      throw BadInput(file.string() + " and " + known->second.filename().string() + ": their results would both be named " +
                     known->first + "_0.bin; rename one before its first dot");
    }
  }
  return files;
} catch (const fs::filesystem_error &error) {
  throw BadInput(folder.string() + ": cannot be read (" + error.code().message() + ")");
}

std::string Stem(const Path &file) {
  const std::string name = file.filename().string();
  return name.substr(0, name.find('.'));
}

void CheckSize(const Path &file, size_t bytes, const std::string &what) {
  std::error_code error;
  const auto found = fs::file_size(file, error);
  if (error) throw BadInput(file.string() + ": cannot be read (" + error.message() + ")");
  if (found != bytes) {
    throw BadInput(file.string() + ": " + std::to_string(found) + " bytes, but " + what + " has " + std::to_string(bytes) +
                   "; preprocess for this model, or write the file again if it was cut short");
  }
}

void Read(const Path &file, void *data, size_t bytes) {
  errno = 0;
  const File stream(std::fopen(file.c_str(), "rb"), std::fclose);
  if (!stream || std::fread(data, 1, bytes, stream.get()) != bytes) {
    throw Failure(file.string() + ": cannot be read (" + (errno != 0 ? std::strerror(errno) : "it became shorter") + ")");
  }
}

void MakeFolder(const Path &folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && fs::is_directory(folder)) return;
  const std::string reason = error ? error.message() : "a file is in its place";
  throw BadInput(folder.string() + ": this folder cannot be made (" + reason + "); choose another");
}

void Write(const Path &file, const void *data, size_t bytes) {
  const Path part = file.parent_path() / ("." + file.filename().string() + ".part");
  File stream(std::fopen(part.c_str(), "wb"), std::fclose);
  bool whole = stream && std::fwrite(data, 1, bytes, stream.get()) == bytes;
  if (stream) whole = std::fclose(stream.release()) == 0 && whole;
  if (whole && std::rename(part.c_str(), file.c_str()) == 0) return;
  const std::string reason = std::strerror(errno);
  std::remove(part.c_str());
  throw Failure(file.string() + ": cannot be written (" + reason + ")");
}

}  // namespace infer
