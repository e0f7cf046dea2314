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

// All lanes as `store` (numbers.h) stores one.
inline __attribute__((always_inline)) void store_lanes(Vector<float> value, float* to) {
    store_vector<float>(value, to);
}
inline __attribute__((always_inline)) void store_lanes(Vector<float> value, BFloat16* to) {
    typedef uint32_t Bits __attribute__((vector_size(64)));
    typedef uint16_t Stored __attribute__((vector_size(32), may_alias, aligned(2)));
    const Bits bits = (Bits)value;
    const Bits rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const Bits result = value != value ? Bits{} + 0x7FC0u : rounded;
    *reinterpret_cast<Stored*>(to) = __builtin_convertvector(result, Stored);
}

// x[i] to to[2 i], leaving what lies between.
inline __attribute__((always_inline)) void store_every_other(const BFloat16* x, int64_t count,
                                                             BFloat16* to) {
    int64_t i = 0;
#if defined(AAF_DOT_INSTRUCTIONS)
    typedef uint16_t Stored __attribute__((vector_size(32), may_alias, aligned(2)));
    typedef uint32_t Words __attribute__((vector_size(64)));
    for (; i + 16 <= count; i += 16)
        _mm512_mask_storeu_epi16(
            to + 2 * i, 0x55555555u,
            (__m512i) __builtin_convertvector(*reinterpret_cast<const Stored*>(x + i), Words));
#endif
    for (; i < count; ++i) to[2 * i] = x[i];
}

// The sum over `count` elements: vector(i) gives the kLanes of them from i on, single(i) one. The
// lanes are summed pairwise in an order of its own, so the result, and its error, are the same for
// every instruction set.
template <class A, class TermVector, class Term>
inline __attribute__((always_inline)) A sum_of(int64_t count, const TermVector& vector,
                                               const Term& single) {
    Vector<A> even = {}, odd = {};
    int64_t i = 0;
    for (; i + 2 * kLanes<A> <= count; i += 2 * kLanes<A>) {
        even += vector(i);
        odd += vector(i + kLanes<A>);
    }
    if (i + kLanes<A> <= count) {
        even += vector(i);
        i += kLanes<A>;
    }
    even += odd;
    for (int lane = 0; i < count; ++i, ++lane) even[lane] += single(i);
    for (int step = kLanes<A> / 2; step > 0; step /= 2)
        for (int lane = 0; lane < step; ++lane) even[lane] += even[lane + step];
    return even[0];
}

template <class A>
inline __attribute__((always_inline)) A sum(const A* x, int64_t count) {
    return sum_of<A>(
        count, [=](int64_t i) __attribute__((always_inline)) { return load_vector(x + i); },
        [=](int64_t i) __attribute__((always_inline)) { return x[i]; });
}

// Of the squared distances from `center`.
template <class A>
inline __attribute__((always_inline)) A sum_of_squares(const A* x, A center, int64_t count) {
    return sum_of<A>(
        count,
        [=](int64_t i) __attribute__((always_inline)) {
            const Vector<A> distance = load_vector(x + i) - center;
            return distance * distance;
        },
        [=](int64_t i)
            __attribute__((always_inline)) { return (x[i] - center) * (x[i] - center); });
}

template <class A>
inline __attribute__((always_inline)) A dot(const A* x, const A* y, int64_t count) {
    return sum_of<A>(
        count,
        [=](int64_t i)
            __attribute__((always_inline)) { return load_vector(x + i) * load_vector(y + i); },
        [=](int64_t i) __attribute__((always_inline)) { return x[i] * y[i]; });
}

// exp for arguments at most 0: x = n ln 2 + r, a polynomial in r, n into the exponent. Below
// -87.3 the result is 1e-38 rather than 0; NaN stays NaN. Error under 2 units in the last place, or
// under 1e-5 where what comes of it is rounded to bfloat16.
template <bool kRounded = false>
inline __attribute__((always_inline)) Vector<float> exp_nonpositive(Vector<float> x) {
    typedef VectorOf<float>::bits Bits;
    const Vector<float> lowest = Vector<float>{} - 87.3f;
    x = x < -87.3f ? lowest : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector<float> shifted = x * 1.44269504088896341f + shift;
    const Vector<float> n = shifted - shift;
    Vector<float> y;
    if constexpr (kRounded) {
        const Vector<float> r = x - n * 0.693147181f;
        y = r * 0.0419276915f + 0.167972475f;
        y = y * r + 0.499987751f;
        y = y * r + 0.999959171f;
        y = y * r + 1.0f;
    } else {
        const Vector<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
        y = r * 1.9875691500e-4f + 1.3981999507e-3f;
        y = y * r + 8.3334519073e-3f;
        y = y * r + 4.1665795894e-2f;
        y = y * r + 1.6666665459e-1f;
        y = y * r + 5.0000001201e-1f;
        y = y * (r * r) + r + 1.0f;
    }
    const Bits exponent = ((Bits)shifted + 127) << 23;
    return y * (Vector<float>)exponent;
}
template <bool kRounded = false>
inline __attribute__((always_inline)) Vector<double> exp_nonpositive(Vector<double> x) {
    Vector<double> y = x;
    for (int i = 0; i < kLanes<double>; ++i) y[i] = __builtin_exp(x[i]);
    return y;
}
