#include "threads.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace albert_act_fast::engine {
namespace {

double now() {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(time).count();
}

Usage used() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return double(time.tv_sec) + 1e-6 * double(time.tv_usec);
    };
    return {now(), seconds(usage.ru_utime) + seconds(usage.ru_stime), double(usage.ru_nivcsw)};
}

bool gives_way() {
    const char* value = std::getenv("ALBERT_ACT_FAST_GIVE_WAY");
    return value == nullptr || (*value != 0 && std::strcmp(value, "0") != 0);
}

// Of the whole process: crowded is the machine, not a run.
std::mutex mutex;
Crowding crowding;
const bool watching = gives_way();

thread_local Sharing* outermost = nullptr;
thread_local bool alone = false;

}  // namespace

Usage Usage::operator+(const Usage& other) const {
    return {wall + other.wall, processors + other.processors, put_aside + other.put_aside,
            rows + other.rows};
}

Usage Usage::operator-(const Usage& other) const {
    return {wall - other.wall, processors - other.processors, put_aside - other.put_aside,
            rows - other.rows};
}

// Together or alone, for a while in which nothing is looked at.
void Crowding::hold(bool alone) {
    alone_ = alone;
    on_trial_ = false;
    left_ = next_;
    next_ = std::min(2 * next_, kLongest);
}

void Crowding::worked(const Usage& spent, int64_t threads) {
    if (left_ > 0) {
        left_ -= spent.wall;
        if (left_ <= 0) alone_ = false;
        return;
    }
    window_ = window_ + spent;
    if (window_.wall < kWindow) return;
    const Usage window = window_;
    window_ = {};
    if (on_trial_) return hold(window.rate() >= kWorth * rate_);
    const bool crowded = window.processors < kShare * double(threads) * window.wall &&
                         window.put_aside > kOften * window.wall;
    if (crowded) {
        rate_ = window.rate();
        alone_ = on_trial_ = true;
    } else {
        next_ = kHold;
    }
}

Sharing::Sharing() : threads_(torch::stable::get_num_threads()) {
    if (outermost != nullptr || !watching || threads_ < 2 || threads_ > Crowding::kMostThreads)
        return;
    outermost = this;
    since_ = used();
    const std::lock_guard<std::mutex> lock(mutex);
    alone = crowding.one_is_enough();
}

Sharing::~Sharing() {
    if (outermost != this) return;
    settle();
    outermost = nullptr;
    alone = false;
}

void Sharing::computed(int64_t rows) {
    if (outermost == nullptr) return;
    outermost->rows_ += double(rows);
    if (now() - outermost->since_.wall > Crowding::kWindow) outermost->settle();
}

void Sharing::settle() {
    Usage spent = used();
    std::swap(spent, since_);
    spent = since_ - spent;
    spent.rows = rows_;
    rows_ = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    crowding.worked(spent, threads_);
    alone = crowding.one_is_enough();
}

bool works_alone() {
    return alone;
}

}  // namespace albert_act_fast::engine
