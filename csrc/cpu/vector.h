// Vectors of 64 bytes by the compiler's own extension: one register under AVX-512, two under AVX2,
// four under SSE2. Included by each instruction set's own translation unit inside its namespace, so
// that no function of one is ever linked into another.
#pragma once

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(64), may_alias, aligned(4)));
    typedef int32_t bits __attribute__((vector_size(64)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(64), may_alias, aligned(8)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = 64 / sizeof(A);

template <class A>
inline __attribute__((always_inline)) Vector<A> load_vector(const A* from) {
    return *reinterpret_cast<const Vector<A>*>(from);
}
template <class A>
inline __attribute__((always_inline)) void store_vector(Vector<A> value, A* to) {
    *reinterpret_cast<Vector<A>*>(to) = value;
}

// exp for arguments at most 0: x = n ln 2 + r, a polynomial in r, n into the exponent. Below
// -87.3 the result is 1e-38 rather than 0; NaN stays NaN. Error under 2 units in the last place.
inline __attribute__((always_inline)) Vector<float> exp_nonpositive(Vector<float> x) {
    typedef VectorOf<float>::bits Bits;
    const Vector<float> lowest = x * 0 - 87.3f;
    x = x < -87.3f ? lowest : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector<float> shifted = x * 1.44269504088896341f + shift;
    const Vector<float> n = shifted - shift;
    const Vector<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Vector<float> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    const Bits exponent = ((Bits)shifted + 127) << 23;
    return y * (Vector<float>)exponent;
}
inline __attribute__((always_inline)) Vector<double> exp_nonpositive(Vector<double> x) {
    Vector<double> y = x;
    for (int i = 0; i < kLanes<double>; ++i) y[i] = __builtin_exp(x[i]);
    return y;
}
