// LayerNorm over one row (Ba et al., arXiv 1607.06450), given the row's mean and the sum of the
// squared distances from it; summing is each device's own affair.
#pragma once

#include "annotations.h"

namespace albert_act_fast {

// 1 / sqrt(variance + eps), variance over `width` elements without Bessel's correction.
template <class A, class Root>
AAF_INLINE A layer_norm_scale(A squares, A width, A eps, Root root) {
    return A(1) / root(squares / width + eps);
}

// For one element, or for a vector of them.
template <class V, class A>
AAF_INLINE V layer_norm_element(V x, A mean, A scale, V weight, V bias) {
    return (x - mean) * scale * weight + bias;
}

}  // namespace albert_act_fast
