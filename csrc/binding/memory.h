// Memory that the engine keeps from call to call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace albert_act_fast::binding {

// Grows and never shrinks. New memory is zero, and what a caller left there stays: products of more
// rows than are live then never meet what was not a number of anybody's.
class Buffer {
  public:
    template <class T>
    T* of(int64_t count) {
        const size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
        if (bytes > bytes_) {
            memory_.reset();
            bytes_ = 0;
            void* memory = std::aligned_alloc(64, bytes);
            if (memory == nullptr) throw std::bad_alloc();
            memset(memory, 0, bytes);
            memory_.reset(memory);
            bytes_ = bytes;
        }
        return static_cast<T*>(memory_.get());
    }

    const void* data() const { return memory_.get(); }
    size_t bytes() const { return bytes_; }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> memory_;
    size_t bytes_ = 0;
};

}  // namespace albert_act_fast::binding
