// Inputs and results on disk.
#ifndef ASCEND310_INFER_FILES_H_
#define ASCEND310_INFER_FILES_H_

#include <cstddef>
#include <filesystem>
#include <vector>

namespace infer {

using Path = std::filesystem::path;

// The .bin files of a folder by name; BadInput when there are none, or when two would give results of one name.
std::vector<Path> ListInputs(const Path &folder);

// A file's name up to its first dot: what its results are named after.
std::string Stem(const Path &file);

// BadInput unless the file holds exactly so many bytes, which are those of `what`.
void CheckSize(const Path &file, size_t bytes, const std::string &what);

// Reads exactly so many bytes; Failure when the file has become shorter.
void Read(const Path &file, void *data, size_t bytes);

// Makes a folder and those above it; BadInput when that cannot be.
void MakeFolder(const Path &folder);

// Writes under a temporary name and renames, so that a file is whole or absent; Failure says what the disk says.
void Write(const Path &file, const void *data, size_t bytes);

}  // namespace infer

#endif  // ASCEND310_INFER_FILES_H_
