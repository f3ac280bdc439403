// What can go wrong, by who can mend it. Messages say what was found, where, and what to change.
#ifndef ASCEND310_INFER_ERRORS_H_
#define ASCEND310_INFER_ERRORS_H_

#include <stdexcept>

namespace infer {

// Flags, model or inputs that do not fit: exit status 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The engine or the machine failed: exit status 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace infer

#endif  // ASCEND310_INFER_ERRORS_H_
