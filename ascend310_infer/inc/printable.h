// Text for people, as common/printable.py makes it: models and files name their parts as they like.
#ifndef ASCEND310_INFER_PRINTABLE_H_
#define ASCEND310_INFER_PRINTABLE_H_

#include <string>

namespace infer {

// A text as one line of at most 500 bytes. Bytes that are no UTF-8, control characters and what turns the direction of writing
// are escapes such as \x1b; white space is a space. Of a longer text the middle is left out, for it begins with what is wrong
// and ends with what to change.
std::string Line(const std::string &text);

}  // namespace infer

#endif  // ASCEND310_INFER_PRINTABLE_H_
