// The kernels for AVX-512 with the instructions for bfloat16 and int8 products.
#include <immintrin.h>

#include <cstddef>

#include "kernels.h"

#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
#define AAF_NAMESPACE avx512_vnni
#define AAF_REGISTER_BYTES 64
#define AAF_AVX512
#define AAF_DOT_INSTRUCTIONS
#include "instantiate.h"
