// Graves' halting rule (arXiv 1603.08983, eq. 5 to 8) for one running token.
#pragma once

#include "annotations.h"

namespace albert_act_fast {

template <class State>
struct Halting {
    State accumulated;  // after this iteration; only meaningful while the token goes on
    State weight;       // of the candidate state in the mix: p, or the remainder where it halts
    State remainder;    // 0 unless it halts now
    bool goes_on;       // runs in the next iteration, if there is one
    bool asks;          // wants one: there is none where no token does
    bool updated;       // counts as an update; false only where p is NaN
};

// What the rule is told beside a token's own state.
template <class State>
struct HaltingLimits {
    State threshold = 0;  // 1 - act_epsilon rounded to float32
};

// A threshold of 1 lets a token reach exactly 1 without passing it: it gets no remainder, and never
// runs again. Where p is NaN no comparison holds, so the token leaves, and its weight NaN freezes
// it as NaN.
template <class State>
AAF_INLINE Halting<State> halting_rule(State accumulated, State p,
                                       const HaltingLimits<State>& limits) {
    const State threshold = limits.threshold;
    const State reached = accumulated + p;
    const bool halts = reached > threshold;
    const State remainder = halts ? State(1) - accumulated : State(0);
    const bool goes_on = reached <= threshold && reached < State(1);
    return {reached, halts ? remainder : p,          remainder,
            goes_on, goes_on && reached < threshold, p == p};
}

}  // namespace albert_act_fast
