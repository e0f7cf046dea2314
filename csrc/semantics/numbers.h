// Storage formats and their conversion to the type that arithmetic is done in. GPUs have
// instructions for it, with the same results.
#pragma once

#include <cstdint>
#include <cstring>

#include "annotations.h"

namespace albert_act_fast {

struct BFloat16 {
    uint16_t bits;
};

struct Half {
    uint16_t bits;
};

// What rows may be of, on each kind of device: DO(type) of all.
#define AAF_CPU_DTYPES(DO) DO(float) DO(double) DO(BFloat16) DO(Half)
#ifndef AAF_CUDA_DTYPES  // fewer where fewer are called: tests/cuda/test_cuda_sanitizers.py
#define AAF_CUDA_DTYPES(DO) DO(float) DO(BFloat16) DO(Half)
#endif
// Those that the C++ engine takes, whose products are its own.
#define AAF_ENGINE_DTYPES(DO) DO(float) DO(BFloat16)

template <class To, class From>
AAF_INLINE To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

// Arithmetic is done in float, except for double.
template <class T>
struct ArithmeticOf {
    using type = float;
};
template <>
struct ArithmeticOf<double> {
    using type = double;
};
template <class T>
using Arithmetic = typename ArithmeticOf<T>::type;

AAF_INLINE float load(float x) {
    return x;
}
AAF_INLINE double load(double x) {
    return x;
}
AAF_INLINE float load(BFloat16 x) {
    return bit_cast<float>(uint32_t(x.bits) << 16);
}

// Half by exponent arithmetic, without branches, so that loops over it vectorise; subnormals
// through the other addend of a float whose last place is theirs.
AAF_INLINE float load(Half x) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    const uint32_t w = uint32_t(x.bits) << 16;
    const uint32_t two_w = w + w;
    const float normal = bit_cast<float>((two_w >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = bit_cast<float>((two_w >> 17) | (126u << 23)) - 0.5f;
    const uint32_t magnitude =
        two_w < (1u << 27) ? bit_cast<uint32_t>(subnormal) : bit_cast<uint32_t>(normal);
    return bit_cast<float>((w & 0x80000000u) | magnitude);
#endif
}

AAF_INLINE void store(float value, float* to) {
    *to = value;
}
AAF_INLINE void store(double value, double* to) {
    *to = value;
}

// Round to nearest, ties to even; a NaN stays one.
AAF_INLINE void store(float value, BFloat16* to) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    to->bits = uint16_t(value != value ? 0x7FC0u : rounded);
#endif
}

AAF_INLINE void store(float value, Half* to) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t two_bits = bits + bits;
    const float magnitude = bit_cast<float>(bits & 0x7FFFFFFFu);
    // Overflow to infinity, then scale so that the float addition below rounds at half's last
    // place.
    const float scaled = (magnitude * 0x1.0p+112f) * 0x1.0p-110f;
    const uint32_t exponent = two_bits & 0xFF000000u;
    const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
    const uint32_t sum = bit_cast<uint32_t>(bit_cast<float>((bias >> 1) + 0x07800000u) + scaled);
    const uint32_t rounded = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
    to->bits = uint16_t((bits >> 16 & 0x8000u) | (two_bits > 0xFF000000u ? 0x7E00u : rounded));
#endif
}

}  // namespace albert_act_fast
