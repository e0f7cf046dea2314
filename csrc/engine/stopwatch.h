// Where a run's time goes.
#pragma once

#include <chrono>
#include <functional>

namespace albert_act_fast::engine {

// Says where the time goes, and lets signals be looked at now and then: whoever does that needs the
// interpreter for it, which other threads may have.
class Stopwatch {
  public:
    explicit Stopwatch(const std::function<void()>& check_signals)
        : check_signals_(check_signals) {}

    void lap(double& into) {
        const auto now = Clock::now();
        into += std::chrono::duration<double>(now - last_).count();
        last_ = now;
        if (!check_signals_ || now - checked_ < std::chrono::milliseconds(50)) return;
        check_signals_();
        last_ = checked_ = Clock::now();
    }

  private:
    using Clock = std::chrono::steady_clock;
    const std::function<void()>& check_signals_;
    Clock::time_point last_ = Clock::now(), checked_ = last_;
};

}  // namespace albert_act_fast::engine
