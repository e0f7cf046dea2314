// Vectors by the compiler's own extension, each of one register: of 64 bytes under AVX-512, 32
// under AVX2, 16 elsewhere. (Wider ones the compiler keeps in memory.) Included by each instruction
// set's own translation unit inside its namespace, so that no function of one is ever linked into
// another.
#pragma once

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(AAF_REGISTER_BYTES), may_alias, aligned(4)));
    typedef int32_t bits __attribute__((vector_size(AAF_REGISTER_BYTES), may_alias, aligned(4)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(AAF_REGISTER_BYTES), may_alias, aligned(8)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = AAF_REGISTER_BYTES / sizeof(A);
typedef VectorOf<float>::bits Integers;

template <class A>
inline __attribute__((always_inline)) Vector<A> load_vector(const A* from) {
    return *reinterpret_cast<const Vector<A>*>(from);
}
template <class A>
inline __attribute__((always_inline)) void store_vector(Vector<A> value, A* to) {
    *reinterpret_cast<Vector<A>*>(to) = value;
}

#if defined(AAF_AVX512)
// Without a mask GCC 12 warns of what its own headers leave uninitialised.
constexpr __mmask16 kAllFloats = 0xFFFF;
#endif

// All lanes as `load` and `store` (numbers.h) take one.
inline __attribute__((always_inline)) Vector<float> load_lanes(const float* from) {
    return load_vector(from);
}
inline __attribute__((always_inline)) Vector<double> load_lanes(const double* from) {
    return load_vector(from);
}
inline __attribute__((always_inline)) Vector<float> load_lanes(const BFloat16* from) {
#if defined(AAF_AVX512)
    // GCC 12 makes five instructions of what is written below, instead of these two.
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m512i bits = _mm512_maskz_cvtepu16_epi32(kAllFloats, stored);
    return (Vector<float>)_mm512_maskz_slli_epi32(kAllFloats, bits, 16);
#else
    typedef uint16_t Stored
        __attribute__((vector_size(AAF_REGISTER_BYTES / 2), may_alias, aligned(2)));
    typedef uint32_t Bits __attribute__((vector_size(AAF_REGISTER_BYTES)));
    return (Vector<float>)(__builtin_convertvector(*reinterpret_cast<const Stored*>(from), Bits)
                           << 16);
#endif
}
inline __attribute__((always_inline)) Vector<float> load_lanes(const Half* from) {
    float lanes[kLanes<float>];
#pragma omp simd
    for (int i = 0; i < kLanes<float>; ++i) lanes[i] = load(from[i]);
    return load_vector(lanes);
}
inline __attribute__((always_inline)) void store_lanes(Vector<float> value, float* to) {
    store_vector<float>(value, to);
}
inline __attribute__((always_inline)) void store_lanes(Vector<float> value, BFloat16* to) {
    typedef uint32_t Bits __attribute__((vector_size(AAF_REGISTER_BYTES)));
    typedef uint16_t Stored
        __attribute__((vector_size(AAF_REGISTER_BYTES / 2), may_alias, aligned(2)));
    const Bits bits = (Bits)value;
    const Bits rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const Bits result = value != value ? Bits{} + 0x7FC0u : rounded;
    *reinterpret_cast<Stored*>(to) = __builtin_convertvector(result, Stored);
}
inline __attribute__((always_inline)) void store_lanes(Vector<double> value, double* to) {
    store_vector<double>(value, to);
}
inline __attribute__((always_inline)) void store_lanes(Vector<float> value, Half* to) {
#pragma omp simd
    for (int i = 0; i < kLanes<float>; ++i) store(value[i], to + i);
}

// The same, of what bfloat16 products give and take: their instruction has 0 for what is below the
// smallest normal number, and so has the one that rounds.
template <class V, class T>
inline __attribute__((always_inline)) void store_normal(V value, T* to) {
    store_lanes(value, to);
}
#if defined(AAF_DOT_INSTRUCTIONS)
inline __attribute__((always_inline)) void store_normal(Vector<float> value, BFloat16* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        (__m256i)_mm512_maskz_cvtneps_pbh(kAllFloats, (__m512)value));
}
#endif

// What a loop over a row's elements is given: kLanes of them at a time, then one.
template <class A>
struct AllLanes {
    template <class T>
    static inline __attribute__((always_inline)) Vector<A> load(const T* from) {
        return load_lanes(from);
    }
    template <class T>
    static inline __attribute__((always_inline)) void store(Vector<A> value, T* to) {
        store_lanes(value, to);
    }
    template <class T>
    static inline __attribute__((always_inline)) void store_normal(Vector<A> value, T* to) {
        AAF_NAMESPACE::store_normal(value, to);
    }
};
template <class A>
struct OneLane {
    template <class T>
    static inline __attribute__((always_inline)) A load(const T* from) {
        return albert_act_fast::load(*from);
    }
    template <class T>
    static inline __attribute__((always_inline)) void store(A value, T* to) {
        albert_act_fast::store(value, to);
    }
    template <class T>
    static inline __attribute__((always_inline)) void store_normal(A value, T* to) {
        albert_act_fast::store(value, to);
    }
};

// Calls f(i, lanes) for the elements from i on, until all `count` have had their turn.
template <class A, class F>
inline __attribute__((always_inline)) void for_lanes(int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + kLanes<A> <= count; i += kLanes<A>) f(i, AllLanes<A>());
    for (; i < count; ++i) f(i, OneLane<A>());
}

// The larger of two lanes; b where one of them is no number.
template <class V>
inline __attribute__((always_inline)) V larger(V a, V b) {
    return a > b ? a : b;
}
#if defined(AAF_AVX512)
inline __attribute__((always_inline)) Vector<float> larger(Vector<float> a, Vector<float> b) {
    return (Vector<float>)_mm512_maskz_max_ps(kAllFloats, (__m512)a, (__m512)b);
}
#endif

// The smaller of two lanes; b where one of them is no number.
inline __attribute__((always_inline)) Vector<float> smaller(Vector<float> a, Vector<float> b) {
#if defined(AAF_AVX512)
    return (Vector<float>)_mm512_maskz_min_ps(kAllFloats, (__m512)a, (__m512)b);
#else
    return a < b ? a : b;
#endif
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

// f of all lanes of a register: of the lower and upper half of them, then of the halves of that,
// and so on.
template <class F>
inline __attribute__((always_inline)) float fold(Vector<float> v, const F& f) {
    typedef float Four __attribute__((vector_size(16)));
#if AAF_REGISTER_BYTES == 16
    const Four four = v;
#else
    typedef float Eight __attribute__((vector_size(32)));
#if AAF_REGISTER_BYTES == 32
    const Eight eight = v;
#else
    const Eight eight = f(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#endif
    const Four four = f(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
                        __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#endif
    const Four two = f(four, __builtin_shufflevector(four, four, 2, 3, 2, 3));
    return f(two, __builtin_shufflevector(two, two, 1, 1, 1, 1))[0];
}
template <class F>
inline __attribute__((always_inline)) double fold(Vector<double> v, const F& f) {
    typedef double Two __attribute__((vector_size(16)));
#if AAF_REGISTER_BYTES == 16
    const Two two = v;
#else
    typedef double Four __attribute__((vector_size(32)));
#if AAF_REGISTER_BYTES == 32
    const Four four = v;
#else
    const Four four =
        f(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7));
#endif
    const Two two =
        f(__builtin_shufflevector(four, four, 0, 1), __builtin_shufflevector(four, four, 2, 3));
#endif
    return f(two, __builtin_shufflevector(two, two, 1, 1))[0];
}
template <class A>
inline __attribute__((always_inline)) A largest_lane(Vector<A> v) {
    return fold(v, [](auto a, auto b) __attribute__((always_inline)) { return larger(a, b); });
}

// A sum in 64 bytes of lanes, in as many registers as that takes: its order, and with it its error,
// is the same for every instruction set.
template <class A>
struct Sums {
    static constexpr int kParts = 64 / AAF_REGISTER_BYTES;
    static constexpr int64_t kAllLanes = kParts * kLanes<A>;
    Vector<A> parts[kParts] = {};

    // Adds term(i) for each register from element `first` on.
    template <class Term>
    inline __attribute__((always_inline)) void add(int64_t first, const Term& term) {
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) parts[p] += term(first + p * kLanes<A>);
    }
    inline __attribute__((always_inline)) void add(const Sums& other) {
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) parts[p] += other.parts[p];
    }
    // The lower and upper half of all lanes, then the halves of that, and so on.
    inline __attribute__((always_inline)) A total() const {
        const auto sum = [](auto a, auto b) __attribute__((always_inline)) { return a + b; };
        if constexpr (kParts == 1)
            return fold(parts[0], sum);
        else if constexpr (kParts == 2)
            return fold(parts[0] + parts[1], sum);
        else
            return fold((parts[0] + parts[2]) + (parts[1] + parts[3]), sum);
    }
};

// The sum over `count` elements of term(i, lanes).
template <class A, class Term>
inline __attribute__((always_inline)) A sum_of(int64_t count, const Term& term) {
    constexpr int64_t step = Sums<A>::kAllLanes;
    const auto of_lanes = [&](int64_t i)
                              __attribute__((always_inline)) { return term(i, AllLanes<A>()); };
    Sums<A> even, odd;
    int64_t i = 0;
    for (; i + 2 * step <= count; i += 2 * step) {
        even.add(i, of_lanes);
        odd.add(i + step, of_lanes);
    }
    if (i + step <= count) {
        even.add(i, of_lanes);
        i += step;
    }
    even.add(odd);
    if (i < count) {
        A lanes[step];
        __builtin_memcpy(lanes, even.parts, sizeof lanes);
        for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += term(i, OneLane<A>());
        __builtin_memcpy(even.parts, lanes, sizeof lanes);
    }
    return even.total();
}

template <class A>
inline __attribute__((always_inline)) A dot(const A* x, const A* y, int64_t count) {
    return sum_of<A>(count, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        return lanes.load(x + i) * lanes.load(y + i);
    });
}

// exp for arguments at most 0: x = n ln 2 + r, a polynomial in r, n into the exponent. Below -87.3
// the result is at most 1e-38; NaN stays NaN. Error under 2 units in the last place, or under 2e-5
// where what comes of it is rounded to bfloat16.
template <bool kRounded = false>
inline __attribute__((always_inline)) Vector<float> exp_nonpositive(Vector<float> x) {
    constexpr float log2_e = 1.44269504088896341f;
#if defined(AAF_AVX512)
    if constexpr (kRounded) {
        // 2^t, by a polynomial in what t has above the next lower integer.
        const __m512 t = (__m512)(x * log2_e);
        const Vector<float> r =
            (Vector<float>)_mm512_maskz_reduce_ps(kAllFloats, t, _MM_FROUND_TO_NEG_INF);
        Vector<float> y = r * 0.0135341678f + 0.0520114601f;
        y = y * r + 0.241442755f;
        y = y * r + 0.693003833f;
        y = y * r + 1.00000262f;
        return (Vector<float>)_mm512_maskz_scalef_ps(kAllFloats, (__m512)y, t);
    }
#endif
    x = larger(Vector<float>{} - 87.3f, x);
#if defined(AAF_AVX512)
    const Vector<float> n = (Vector<float>)_mm512_maskz_roundscale_ps(
        kAllFloats, (__m512)(x * log2_e), _MM_FROUND_TO_NEAREST_INT);
#else
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector<float> shifted = x * log2_e + shift;
    const Vector<float> n = shifted - shift;
#endif
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
#if defined(AAF_AVX512)
    return (Vector<float>)_mm512_maskz_scalef_ps(kAllFloats, (__m512)y, (__m512)n);
#else
    const Integers exponent = ((Integers)shifted + 127) << 23;
    return y * (Vector<float>)exponent;
#endif
}
template <bool kRounded = false>
inline __attribute__((always_inline)) Vector<double> exp_nonpositive(Vector<double> x) {
    Vector<double> y = x;
    for (int i = 0; i < kLanes<double>; ++i) y[i] = __builtin_exp(x[i]);
    return y;
}
