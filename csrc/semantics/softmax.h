// The softmax over a row of scores that arrives piece by piece (Milakov & Gimelshein, arXiv
// 1805.02867), for float or for a vector of floats alike. `exp` is given arguments at most 0.
#pragma once

#include "annotations.h"

namespace albert_act_fast {

template <class V>
struct SoftmaxStep {
    V highest;  // of all scores so far
    V rescale;  // what sums made with the previous highest score are to be multiplied by
};

// `highest` so far, -infinity before the first piece, and the highest score of the next piece.
template <class V, class Exp>
AAF_INLINE SoftmaxStep<V> softmax_step(V highest, V piece, Exp exp) {
    const V now = piece > highest ? piece : highest;
    return {now, exp(highest - now)};
}

// The weight of a score before the division by the sum of all weights.
template <class V, class Exp>
AAF_INLINE V softmax_weight(V score, V highest, Exp exp) {
    return exp(score - highest);
}

}  // namespace albert_act_fast
