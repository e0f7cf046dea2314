// Everything of one instruction set. The including file has set the target, AAF_NAMESPACE and the
// other names that say what the set offers (compilers do not define theirs after a pragma); all
// headers with functions of their own were included before that, so that none of theirs is
// compiled for an instruction set that another machine lacks. The rules shared with other devices
// are inlined wherever they are used, and nothing inlines what has a wider target than itself, so
// they come after it.
#include "../semantics/activation.h"
#include "../semantics/layer_norm.h"
#include "../semantics/softmax.h"

namespace albert_act_fast::cpu {
namespace AAF_NAMESPACE {

// In this order: the later ones use the earlier ones.
#include "vector.h"

#include "layer_norm.h"

#include "panel.h"

#include "tiles.h"

#include "key_value_store.h"

#include "attention.h"

#include "product.h"

#include "halting_step.h"

#include "checksum.h"

template <class T>
const Kernels<T>& kernels() {
#define AAF_MEMBER(Args, name) , &name<T>
    static constexpr Kernels<T> all = {&write_keys_values<T>,
                                       &ragged_attention<T>,
                                       &halting_step<T>,
                                       &finish_rows<T>,
                                       quantize_of<T>(),
                                       int8_product_of<T>(),
                                       product_of<T>() AAF_ROW_OPERATORS(AAF_MEMBER)};
#undef AAF_MEMBER
    return all;
}
#define AAF_INSTANTIATE(T) template const Kernels<T>& kernels<T>();
AAF_CPU_DTYPES(AAF_INSTANTIATE)
#undef AAF_INSTANTIATE

uint64_t checksum(const void* words, int64_t first, int64_t count) {
    return checksum_words(static_cast<const unsigned char*>(words), first, count);
}

}  // namespace AAF_NAMESPACE
}  // namespace albert_act_fast::cpu
