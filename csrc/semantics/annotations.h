// How functions of this folder are marked, so that one text serves host and device compilers.
#pragma once

#if defined(__CUDACC__)
#define AAF_INLINE __host__ __device__ __forceinline__
#else
#define AAF_INLINE inline __attribute__((always_inline))
#endif
