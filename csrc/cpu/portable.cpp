// The kernels for portable.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstddef>

#include "kernels.h"

#define AAF_NAMESPACE portable
#define AAF_REGISTER_BYTES 16
#include "instantiate.h"
