// Refusing what cannot be computed, in words: argument, what was given, what was expected. torch's
// own macros put the path of the source on the machine that built it before them.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace albert_act_fast {

// Python sees it as ValueError.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

// A shape as Python writes it.
inline std::string text(const std::vector<int64_t>& shape) {
    std::string all = "(";
    for (size_t i = 0; i < shape.size(); ++i) all += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    return all + (shape.size() == 1 ? ",)" : ")");
}

// The parts of the message are evaluated only where it is thrown.
#define AAF_CHECK(holds, ...)                                 \
    do {                                                      \
        if (!(holds)) ::albert_act_fast::refuse(__VA_ARGS__); \
    } while (false)

}  // namespace albert_act_fast
