// The activations of the feed-forward block, for a vector of floats. Each is given its functions:
// exp, exact to a few units in the last place for arguments at most 0; magnitude; smaller and
// larger, of two vectors, the second one where a lane of either is NaN.
#pragma once

#include "activation_names.h"
#include "annotations.h"

namespace albert_act_fast {

// What a result is stored in, or rounded to before anything else is made of it: how exact it has to
// be. int8: in steps of a 127th of its row's largest magnitude.
enum class RoundedTo { float32, bfloat16, int8 };

// log(Phi(-x)) + x^2 / 2 for x from 0 to 5.5, Phi the normal distribution's cumulative function, by
// Chebyshev interpolation. Within 1.5e-7; where what comes of it is rounded to bfloat16, within
// 3e-5, a 64th of that rounding.
template <RoundedTo kRoundedTo, class V>
AAF_INLINE V log_normal_tail(V x) {
    if constexpr (kRoundedTo == RoundedTo::bfloat16) {
        V y = x * 1.82330496e-05f + -0.00046006334f;
        y = y * x + 0.0052037579f;
        y = y * x + -0.0360667147f;
        y = y * x + 0.180991113f;
        y = y * x + -0.797564328f;
        return y * x + -0.693167686f;
    } else {
        V y = x * -1.19588863e-08f + 3.79674816e-07f;
        y = y * x + -5.16969203e-06f;
        y = y * x + 3.80154706e-05f;
        y = y * x + -0.000138980657f;
        y = y * x + -0.000122095837f;
        y = y * x + 0.00497724721f;
        y = y * x + -0.0364703871f;
        y = y * x + 0.181737214f;
        y = y * x + -0.797890961f;
        return y * x + -0.693147063f;
    }
}

// S with S(x) = 1/2 + x P(x^2) up to 4.25, 0 or 1 beyond: P's coefficients. By linear programming
// for the least error of x S(x): at most 5e-5, or 1.3e-5 of it where that is more.
struct Sigmoid {
    float coefficients[9];
};
constexpr Sigmoid kNormal = {0.398819268f,    -0.0661903247f,   0.00971879996f,
                             -0.00107908424f, 8.84902038e-05f,  -5.1476236e-06f,
                             1.98622445e-07f, -4.51551285e-09f, 4.54734757e-11f};
constexpr Sigmoid kNormalByTanh = {0.398787886f,    -0.0664532557f,   0.00990500953f,
                                   -0.00112870836f, 9.54828938e-05f,  -5.72329645e-06f,
                                   2.26535988e-07f, -5.25596811e-09f, 5.3773961e-11f};
// x S(x), by half the instructions that exp would take. An infinity times 0 is NaN, as with exp.
template <class V, class Functions>
AAF_INLINE V times_sigmoid(V x, Functions f, const Sigmoid& sigmoid) {
    constexpr float limit = 4.25f;
    const V near = f.larger(V{} - limit, f.smaller(V{} + limit, x)), square = near * near;
    V y = square * sigmoid.coefficients[8] + sigmoid.coefficients[7];
    for (int i = 6; i >= 0; --i) y = y * square + sigmoid.coefficients[i];
    return x * (x < -limit ? V{} : near * y + 0.5f);
}

// x Phi(x) (Hendrycks & Gimpel, arXiv 1606.08415). By the tail of Phi, so that nothing cancels out
// where x is negative; beyond 14 that is 0.
template <RoundedTo kRoundedTo, class V, class Functions>
AAF_INLINE V gelu(V x, Functions f) {
    if constexpr (kRoundedTo == RoundedTo::int8) {
        return times_sigmoid(x, f, kNormal);
    } else {
        const V magnitude = f.magnitude(x), near = f.smaller(V{} + 5.5f, magnitude);
        const V exponent = log_normal_tail<kRoundedTo>(near) - 0.5f * magnitude * magnitude;
        const V tail = magnitude > 14.0f ? V{} : f.exp(exponent);
        return x * (x < 0 ? tail : 1.0f - tail);
    }
}

// x / (1 + exp(-x)) without exp of a positive number.
template <class V, class Functions>
AAF_INLINE V times_sigmoid(V x, V of, Functions f) {
    const V one = V{} + 1.0f, decayed = f.exp(-f.magnitude(of));
    const V numerator = of < 0 ? decayed : one;
    return x * (numerator / (1.0f + decayed));
}

// The same paper's approximation by tanh: 0.5 (1 + tanh(u)) = sigmoid(2 u).
template <RoundedTo kRoundedTo, class V, class Functions>
AAF_INLINE V gelu_tanh(V x, Functions f) {
    if constexpr (kRoundedTo == RoundedTo::int8)
        return times_sigmoid(x, f, kNormalByTanh);
    else
        return times_sigmoid(x, 1.59576912160573071f * (x + 0.044715f * x * x * x), f);
}

template <RoundedTo kRoundedTo, class V, class Functions>
AAF_INLINE V activate(Activation activation, V x, Functions f) {
    switch (activation) {
        case Activation::gelu:
            return gelu<kRoundedTo>(x, f);
        case Activation::gelu_tanh:
            return gelu_tanh<kRoundedTo>(x, f);
        case Activation::relu:
            return x < 0 ? V{} : x;
        case Activation::silu:
            return times_sigmoid(x, x, f);
        default:
            return x;
    }
}

}  // namespace albert_act_fast
