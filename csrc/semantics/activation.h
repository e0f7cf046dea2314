// The activations of the feed-forward block, for float or for a vector of floats alike. Each is
// given `exp`, exact to a few units in the last place for arguments at most 0.
#pragma once

#include "activation_names.h"
#include "annotations.h"

namespace albert_act_fast {

// The error function, within 1.5e-7. Below 1 a polynomial in x^2 for erf(x) / x; above it
// 1 - exp(-x^2 + p(x)) with p fitted to log(erfc(x)) + x^2; both by Chebyshev interpolation. Beyond
// 4 the result is 1 in float32.
template <class V, class Exp>
AAF_INLINE V error_function(V x, Exp exp) {
    const V square = x * x;
    V low = square * -9.67359028e-06f + 0.000112682537f;
    low = low * square + -0.000848439652f;
    low = low * square + 0.00522105341f;
    low = low * square + -0.0268654383f;
    low = low * square + 0.112837826f;
    low = low * square + -0.376126385f;
    low = low * square + 1.12837917f;
    const V magnitude = x < 0 ? -x : x;
    const V end = V{} + 4.2f;
    const V t = magnitude > 4.2f ? end : magnitude;
    V high = t * -7.75280043e-08f + 3.33176753e-06f;
    high = high * t + -6.21027091e-05f;
    high = high * t + 0.000683001742f;
    high = high * t + -0.00504858355f;
    high = high * t + 0.0270469673f;
    high = high * t + -0.11095396f;
    high = high * t + 0.368931509f;
    high = high * t + -1.13060301f;
    high = high * t + 0.000397404229f;
    const V tail = 1.0f - exp(high - t * t);
    const V signed_tail = x < 0 ? -tail : tail;
    return magnitude < 1.0f ? x * low : signed_tail;
}

// x Phi(x), Phi the normal distribution's cumulative function (Hendrycks & Gimpel, arXiv
// 1606.08415).
template <class V, class Exp>
AAF_INLINE V gelu(V x, Exp exp) {
    return x * 0.5f * (1.0f + error_function(x * 0.707106781186547524f, exp));
}

// x / (1 + exp(-x)) without exp of a positive number.
template <class V, class Exp>
AAF_INLINE V times_sigmoid(V x, V of, Exp exp) {
    const V one = V{} + 1.0f, decayed = exp(of < 0 ? of : -of);
    const V numerator = of < 0 ? decayed : one;
    return x * (numerator / (1.0f + decayed));
}

// The same paper's approximation by tanh: 0.5 (1 + tanh(u)) = sigmoid(2 u).
template <class V, class Exp>
AAF_INLINE V gelu_tanh(V x, Exp exp) {
    return times_sigmoid(x, 1.59576912160573071f * (x + 0.044715f * x * x * x), exp);
}

template <class V, class Exp>
AAF_INLINE V activate(Activation activation, V x, Exp exp) {
    switch (activation) {
        case Activation::gelu:
            return gelu(x, exp);
        case Activation::gelu_tanh:
            return gelu_tanh(x, exp);
        case Activation::relu:
            return x < 0 ? V{} : x;
        case Activation::silu:
            return times_sigmoid(x, x, exp);
        default:
            return x;
    }
}

}  // namespace albert_act_fast
