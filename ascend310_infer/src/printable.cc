#include "printable.h"

#include <cstdint>
#include <cstdio>

namespace infer {
namespace {

constexpr size_t kLongest = 500, kEnd = kLongest / 3;
constexpr struct {
  uint32_t first, last;
} kHidden[] = {  // they have no width, or turn the direction of writing; those that join letters of words and emoji are shown
    {0x7f, 0x9f},     {0xad, 0xad},     {0x600, 0x605},   {0x61c, 0x61c},   {0x6dd, 0x6dd},   {0x70f, 0x70f},   {0x180e, 0x180e},
    {0x200b, 0x200b}, {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f},
};

bool IsLater(unsigned char byte) { return (byte & 0xc0) == 0x80; }  // one of UTF-8 that begins no letter

// Bytes of the letter of UTF-8 at the start of a text, and its number; 0 where there is none.
size_t Letter(const unsigned char *text, size_t size, uint32_t *number) {
  const unsigned char first = text[0];
  const size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length == 0 || length > size) return 0;
  *number = length == 1 ? first : first & (0xff >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (!IsLater(text[i])) return 0;
    *number = *number << 6 | (text[i] & 0x3f);
  }
  const bool longer_than_needed = (length == 3 && *number < 0x800) || (length == 4 && *number < 0x10000);
  return longer_than_needed || (*number >= 0xd800 && *number < 0xe000) || *number > 0x10ffff ? 0 : length;
}

bool IsHidden(uint32_t number) {
  if (number < 0x20) return true;
  for (const auto &range : kHidden) {
    if (number >= range.first && number <= range.last) return true;
  }
  return false;
}

std::string Escaped(const std::string &text) {
  std::string shown;
  const auto *bytes = reinterpret_cast<const unsigned char *>(text.data());
  for (size_t at = 0; at < text.size();) {
    uint32_t number = bytes[at];
    const size_t length = Letter(bytes + at, text.size() - at, &number);
    char escape[16] = "";
    if (number == ' ' || (number >= '\t' && number <= '\r')) {
      shown += ' ';
    } else if (length == 0 || IsHidden(number)) {
      if (length == 0) number = bytes[at];
      std::snprintf(escape, sizeof escape, number < 0x100 ? "\\x%02x" : number < 0x10000 ? "\\u%04x" : "\\U%08x", number);
      shown += escape;
    } else {
      shown.append(text, at, length);
    }
    at += length ? length : 1;
  }
  return shown;
}

}  // namespace

std::string Line(const std::string &text) {
  const std::string line = Escaped(text);
  if (line.size() <= kLongest) return line;
  size_t head = kLongest - kEnd - 5, tail = line.size() - kEnd;
  while (head > 0 && IsLater(static_cast<unsigned char>(line[head]))) --head;
  while (tail < line.size() && IsLater(static_cast<unsigned char>(line[tail]))) ++tail;
  return line.substr(0, head) + " ... " + line.substr(tail);
}

}  // namespace infer
