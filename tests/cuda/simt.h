// CUDA's execution model on a CPU, for tests: kernels compile as C++ after this header, each CUDA
// thread a fiber of one system thread. simt.cpp schedules the fibers in a random order that a seed
// repeats, several blocks at a time, which begin in random order too, so that what rests on an
// order comes to light.
//
// There are __syncthreads, __syncwarp, shuffles, ballots and votes by whole warps, atomics, acquire
// and release, and shared memory full of NaN until it is written. Threads of a block that meet at
// different barriers, a thread that leaves others waiting, and waiting that never ends, are errors.
// Not modelled: memory that becomes visible out of order, and inline PTX.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define SIMT_ON_CPU 1
#define __global__
#define __device__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct dim3 {
    explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    unsigned x, y, z;
};

// Of the fiber that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

void launch(dim3 grid, unsigned threads, void (*body)(const void*), const void* args);
// The block's object for `key`; made when the first of its threads asks.
void* shared(const void* key, size_t bytes, size_t alignment);
void barrier(int line);
// The values that all lanes of the calling warp bring, which must come from the same line.
const uint64_t* exchange(unsigned mask, uint64_t value, int line);
void warp_barrier(unsigned mask, int line);
// Lets other fibers run, sometimes.
void maybe_pause();

template <class T>
uint64_t bits_of(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}
template <class T>
T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace simt

#define AAF_SHARED(Type, name)        \
    static const char name##_key = 0; \
    Type& name = *static_cast<Type*>(::simt::shared(&name##_key, sizeof(Type), alignof(Type)))

// The line of the call, wherever it stands, tells one meeting place of threads from another.
#define SIMT_LINE int line = __builtin_LINE()

inline void __syncthreads(SIMT_LINE) {
    simt::barrier(line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_LINE) {
    simt::warp_barrier(mask, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step, SIMT_LINE) {
    const unsigned lane = threadIdx.x % 32;
    return simt::from_bits<T>(
        simt::exchange(mask, simt::bits_of(value), line)[lane ^ unsigned(step)]);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, SIMT_LINE) {
    const uint64_t* votes = simt::exchange(mask, vote, line);
    unsigned ballot = 0;
    for (int i = 0; i < 32; ++i) ballot |= unsigned(votes[i]) << i;
    return ballot;
}
inline int __any_sync(unsigned mask, bool vote, SIMT_LINE) {
    return __ballot_sync(mask, vote, line) != 0;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_LINE) {
    const uint64_t* values = simt::exchange(mask, value, line);
    unsigned sum = 0;
    for (int i = 0; i < 32; ++i) sum += unsigned(values[i]);
    return sum;
}
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

namespace albert_act_fast::cuda {

inline uint64_t load_relaxed(const uint64_t* from) {
    simt::maybe_pause();
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}
inline void hold(uint4&) {}
inline void wait_for_the_kernel_before() {}
inline void store_relaxed(uint64_t* to, uint64_t value) {
    simt::maybe_pause();
    __atomic_store_n(to, value, __ATOMIC_RELAXED);
}
inline uint64_t add_relaxed(uint64_t* to, uint64_t value) {
    simt::maybe_pause();
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
inline uint64_t add_acquire_release(uint64_t* to, uint64_t value) {
    simt::maybe_pause();
    return __atomic_fetch_add(to, value, __ATOMIC_ACQ_REL);
}

template <class Args>
const char* launch(void (*kernel)(Args), dim3 grid, int threads, const Args& args, void*) {
    struct Call {
        void (*kernel)(Args);
        const Args* args;
    };
    const Call call{kernel, &args};
    simt::launch(
        grid, unsigned(threads),
        [](const void* given) {
            const Call* made = static_cast<const Call*>(given);
            made->kernel(*made->args);
        },
        &call);
    return nullptr;
}

template <class Args>
const char* launch_dependent(void (*kernel)(Args), dim3 grid, int threads, const Args& args,
                             void* stream) {
    return launch(kernel, grid, threads, args, stream);
}

}  // namespace albert_act_fast::cuda
