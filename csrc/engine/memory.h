// Memory that the engine keeps from call to call.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace albert_act_fast::engine {

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
            memory_.reset(zeros(bytes));
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
    static void* zeros(size_t bytes) {
        // Rows of a product lie pages apart: with small pages their addresses alone cost time.
        constexpr size_t huge_page = size_t(2) << 20;
        const size_t alignment = bytes < huge_page ? 64 : huge_page;
        const size_t whole = (bytes + alignment - 1) / alignment * alignment;
        void* memory = std::aligned_alloc(alignment, whole);
        if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        // Only a wish. What is behind the last full page stays untouched, so it costs nothing.
        if (alignment == huge_page) madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
        memset(memory, 0, bytes);
        return memory;
    }
    std::unique_ptr<void, Free> memory_;
    size_t bytes_ = 0;
};

}  // namespace albert_act_fast::engine
