// All kernels for all dtypes. Compiled by nvcc; and, for tests on the CPU, as C++.
#include "add_layer_norm.cuh"
#include "embed_tokens.cuh"
#include "halting_step.cuh"
#include "ragged_attention.cuh"
#include "scatter_rows.cuh"

namespace albert_act_fast::cuda {

template <class Args>
const char* run(const Args& args, void* stream) {
    return launch_operator(args, stream);
}

template const char* run(const ScatterRows&, void*);
#define AAF_INSTANTIATE(T)                                      \
    template const char* run(const EmbedTokens<T>&, void*);     \
    template const char* run(const AddLayerNorm<T>&, void*);    \
    template const char* run(const RaggedAttention<T>&, void*); \
    template const char* run(const HaltingStep<T>&, void*);
AAF_CUDA_DTYPES(AAF_INSTANTIATE)

}  // namespace albert_act_fast::cuda
