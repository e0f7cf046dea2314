// Work split among torch's threads, or done by one of them alone while other programs want the
// processors too.
//
// OpenMP's threads wait for each other spinning, and share work in equal parts. Where one of them
// is put aside for another program, the others spin until it is back: several times the processor
// time of one thread, and slower than it. So a run watches what its process has had of the
// processors, and whether one thread alone gets on as well. Results are the same to the bit,
// whoever computes.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace albert_act_fast::engine {

// A stretch of work, or what a process had done up to some time.
struct Usage {
    double wall = 0, processors = 0;  // seconds, by the clock and of the processors
    double put_aside = 0;             // how often a thread of its own had to make room
    double rows = 0;                  // that iterations computed

    double rate() const { return rows / wall; }
    Usage operator+(const Usage& other) const;
    Usage operator-(const Usage& other) const;
};

// Whether one thread should work alone, by how stretches of work went.
class Crowding {
  public:
    // Of more threads one alone would be too slow to be worth a try.
    static constexpr int64_t kMostThreads = 4;
    // Seconds. How long work is looked at before a decision; for how long that holds, twice as long
    // each time that it is made again.
    static constexpr double kWindow = 0.05, kHold = 0.25, kLongest = 4;

    // Of work that `threads` threads shared; or one did, if it was to.
    void worked(const Usage& spent, int64_t threads);
    bool one_is_enough() const { return alone_; }

  private:
    void hold(bool alone);

    // Of the processors' time that so many threads take undisturbed, spinning or not; how often in
    // a second one may be put aside on a quiet machine; of the threads' rate, what one has to
    // reach.
    static constexpr double kShare = 0.8, kOften = 40, kWorth = 0.8;
    Usage window_;
    bool alone_ = false, on_trial_ = false;
    double rate_ = 0;                 // of the threads together
    double left_ = 0, next_ = kHold;  // seconds that the decision holds, and that the next one will
};

// A run of the calling thread's, while it lives: whether `parallel_for` shares follows from the
// runs before, and from what `computed` sees of this one. One within another does nothing.
class Sharing {
  public:
    Sharing();
    ~Sharing();
    Sharing(const Sharing&) = delete;
    Sharing& operator=(const Sharing&) = delete;
    // After each iteration, of so many rows.
    static void computed(int64_t rows);

  private:
    void settle();
    int64_t threads_;
    Usage since_;
    double rows_ = 0;
};

bool works_alone();

// As at::parallel_for.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
    if (!works_alone())
        torch::stable::parallel_for(begin, end, grain, f);
    else if (begin < end)
        f(begin, end);
}

}  // namespace albert_act_fast::engine
