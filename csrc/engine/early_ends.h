// Results of a sequence that do not depend on those beside it, where a token ties with the
// threshold.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "../semantics/operators.h"

namespace albert_act_fast::engine {

// Sequences none of whose tokens asks for another iteration, while tokens of others do: what they
// had then, to be put back at the end of the run. It takes a token whose probability equals the
// threshold, so that computing them on costs nothing, and moving rows about would be for nothing.
template <class T>
class EarlyEnds {
  public:
    // The rows of the next iteration, and the limits that the last one had.
    void look(const HaltingStep<T>& step) {
        ended_.resize(size_t(step.sequences), false);
        for (int64_t b = 0; b < step.sequences; ++b) {
            const int64_t first = step.next_query_offsets[b], stop = step.next_query_offsets[b + 1];
            const auto* reached = step.next_accumulated_probability;
            if (first == stop || ended_[size_t(b)] ||
                std::any_of(reached + first, reached + stop,
                            [&](float each) { return each < step.limits.threshold; }))
                continue;
            ended_[size_t(b)] = true;
            for (int64_t r = first; r < stop; ++r) {
                const T* row = step.next_hidden.row(r);
                tokens_.push_back({step.next_token_index[r], step.iteration});
                states_.insert(states_.end(), row, row + step.width);
            }
        }
    }

    void put_back(const HaltingStep<T>& step) const {
        for (size_t i = 0; i < tokens_.size(); ++i) {
            const auto [token, iteration] = tokens_[i];
            memcpy(step.out.row(token), states_.data() + i * size_t(step.width),
                   size_t(step.width) * sizeof(T));
            step.n_updates[token] = float(iteration);
            step.remainders[token] = 0;
        }
    }

  private:
    std::vector<bool> ended_;
    std::vector<std::pair<int64_t, int64_t>> tokens_;  // and their last iteration
    std::vector<T> states_;
};

}  // namespace albert_act_fast::engine
