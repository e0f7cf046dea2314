// What Python owns by a number.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "../common/check.h"
#include "../engine/encoder.h"

namespace albert_act_fast::binding {

template <class Object>
constexpr const char* kKind = nullptr;
template <>
inline constexpr const char* kKind<engine::Engine> = "engine";
template <>
inline constexpr const char* kKind<engine::Encoder> = "encoder";

// All objects of a kind, by handle. A handle is never used again, so that one whose object is gone
// is refused.
template <class Object>
class Handles {
  public:
    static Handles& all() {
        // Never destroyed: at exit torch, whose tensors the objects hold, may be gone already.
        static Handles& handles = *new Handles;
        return handles;
    }

    int64_t add(std::shared_ptr<Object> object) {
        const std::lock_guard<std::mutex> lock(mutex_);
        objects_.emplace(++last_, std::move(object));
        return last_;
    }

    // Whoever runs it keeps it alive.
    std::shared_ptr<Object> get(int64_t handle) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(handle);
        AAF_CHECK(found != objects_.end(), kKind<Object>, ": got ", handle,
                  ", expected the handle of an ", kKind<Object>, " that has not been released.");
        return found->second;
    }

    void release(int64_t handle) {
        const std::shared_ptr<Object> last = get(handle);  // freed without the lock
        const std::lock_guard<std::mutex> lock(mutex_);
        objects_.erase(handle);
    }

    int64_t count() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return int64_t(objects_.size());
    }

  private:
    Handles() {
        // A process that is forked while another thread has the lock must not inherit it locked.
        pthread_atfork([] { all().mutex_.lock(); }, [] { all().mutex_.unlock(); },
                       [] { all().mutex_.unlock(); });
    }

    std::mutex mutex_;
    std::unordered_map<int64_t, std::shared_ptr<Object>> objects_;
    int64_t last_ = 0;
};

}  // namespace albert_act_fast::binding
