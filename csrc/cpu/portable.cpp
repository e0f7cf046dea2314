// The kernels for portable.
#include <cstddef>

#include "kernels.h"

#define AAF_NAMESPACE portable
#define AAF_ROWS_AT_ONCE 1
#include "instantiate.h"
