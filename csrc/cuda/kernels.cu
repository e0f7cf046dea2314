// All kernels for all dtypes. Compiled by nvcc; and, for tests on the CPU, as C++.
#include "add_layer_norm.cuh"
#include "embed_tokens.cuh"
#include "halting_step.cuh"
#include "ragged_attention.cuh"
#include "scatter_rows.cuh"

namespace albert_act_fast::cuda {

const char* scatter_rows(const ScatterRows& args, void* stream) {
    return launch_scatter_rows(args, stream);
}

#define AAF_INSTANTIATE(T)                                                   \
    template const char* embed_tokens(const EmbedTokens<T>&, void*);         \
    template const char* add_layer_norm(const AddLayerNorm<T>&, void*);      \
    template const char* ragged_attention(const RaggedAttention<T>&, void*); \
    template const char* halting_step(const HaltingStep<T>&, void*);
AAF_CUDA_DTYPES(AAF_INSTANTIATE)

}  // namespace albert_act_fast::cuda
