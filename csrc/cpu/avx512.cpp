// The kernels for avx512.
#include <immintrin.h>

#include <cstddef>

#include "kernels.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define AAF_NAMESPACE avx512
#define AAF_REGISTER_BYTES 64
#define AAF_AVX512
#include "instantiate.h"
