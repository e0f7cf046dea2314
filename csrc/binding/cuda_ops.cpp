// The `cuda` overloads of the operators that albert_act_fast/ops/contracts.py defines. They only
// launch: nothing is allocated, and no value of a tensor is read or waited for, so that they can be
// captured in a CUDA graph. What indices point to is therefore not checked.
//
// Not yet run on a GPU. Tests run the same code on CPU tensors, where the dispatch key says so.
#include "../cuda/kernels.h"

#include <torch/csrc/stable/accelerator.h>

#include "arguments.h"

#if !defined(AAF_CUDA_DISPATCH_KEY)
#define AAF_CUDA_DISPATCH_KEY CUDA
#endif

// Of torch's stable C interface, in its CUDA builds alone; null in all others, where no tensor is
// on a CUDA device either.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace albert_act_fast::binding {
namespace {

// Makes the rows' device the current one, and knows its current stream.
class Device {
  public:
    explicit Device(const Tensor& rows) {
        if (rows.is_cpu()) return;
        guard_.emplace(rows.get_device_index());
        AAF_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "this build of torch knows no CUDA streams.");
        STABLE_TORCH_ERROR_CODE_CHECK(
            aoti_torch_get_current_cuda_stream(rows.get_device_index(), &stream_));
    }

    void* stream() const { return stream_; }

  private:
    std::optional<torch::stable::accelerator::DeviceGuard> guard_;
    void* stream_ = nullptr;
};

void check_launch(const char* op, const char* error) {
    AAF_CHECK(error == nullptr, op, ": the kernel was not launched: ", error);
}

// Calls f with the storage type of `rows` as its argument's type.
template <class F>
void for_row_dtype(const char* op, const Tensor& rows, const F& f) {
    switch (rows.scalar_type()) {
        case ScalarType::Float:
            return f(float());
        case ScalarType::BFloat16:
            return f(BFloat16());
        case ScalarType::Half:
            return f(Half());
        default:
            AAF_CHECK(false, op, ": expected float32, bfloat16 or float16 rows.");
    }
}

void check_sizes(const char* op, int64_t rows, int64_t width) {
    AAF_CHECK(width <= cuda::kMaxWidth, op, ": rows have ", width, " columns, expected at most ",
              cuda::kMaxWidth, ".");
    AAF_CHECK(rows <= INT32_MAX, op, ": got ", rows, " rows, expected at most ", INT32_MAX, ".");
}

// Where the number of live rows stands; null where all are.
const int64_t* live_rows(const Arguments& check, const std::optional<Tensor>& row_count) {
    if (!row_count.has_value()) return nullptr;
    return check.vector<const int64_t>("row_count", *row_count, 1);
}

template <class T>
cuda::LayerNorm<T> norm_of(const Arguments& check, const Tensor& weight, const Tensor& bias,
                           double eps, int64_t width) {
    const auto norm = check.norm<T>(weight, bias, eps, width);
    return {norm.weight, norm.bias, float(eps)};
}

void embed_tokens(Tensor token_ids, Tensor token_type_ids, Tensor position_ids, Tensor word,
                  Tensor token_type, std::optional<Tensor> position, Tensor ln_weight,
                  Tensor ln_bias, double eps, std::optional<Tensor> row_count, Tensor out) {
    for_row_dtype("embed_tokens", word, [&](auto element) {
        using T = decltype(element);
        const Arguments check("embed_tokens", word);
        const int64_t tokens = check.length("token_ids", token_ids);
        const auto [words, width] = check.sizes("word", word);
        const int64_t types = check.sizes("token_type", token_type).first;
        cuda::EmbedTokens<T> args{
            check.vector<const int64_t>("token_ids", token_ids, tokens),
            check.vector<const int64_t>("token_type_ids", token_type_ids, tokens),
            check.vector<const int64_t>("position_ids", position_ids, tokens),
            check.matrix<const T>("word", word, words, width),
            check.matrix<const T>("token_type", token_type, types, width),
            {nullptr, 0},
            norm_of<T>(check, ln_weight, ln_bias, eps, width),
            live_rows(check, row_count),
            check.matrix<T>("out", out, tokens, width),
            tokens,
            width};
        if (position.has_value())
            args.position = check.matrix<const T>("position", *position,
                                                  check.sizes("position", *position).first, width);
        check_sizes("embed_tokens", tokens, width);
        const Device device(word);
        check_launch("embed_tokens", cuda::embed_tokens(args, device.stream()));
    });
}

template <class Byte, class T>
Matrix<Byte> bytes_of(const Matrix<T>& rows) {
    return {reinterpret_cast<Byte*>(rows.data), rows.stride * int64_t(sizeof(T))};
}

void write_kv(Tensor keys, Tensor values, Tensor token_index, std::optional<Tensor> row_count,
              Tensor key_store, Tensor value_store) {
    for_row_dtype("write_kv", keys, [&](auto element) {
        using T = decltype(element);
        using Byte = unsigned char;
        const Arguments check("write_kv", keys);
        const auto [rows, width] = check.sizes("keys", keys);
        const int64_t tokens = check.sizes("key_store", key_store).first;
        const cuda::ScatterRows args{
            {bytes_of<const Byte>(check.matrix<const T>("keys", keys, rows, width)),
             bytes_of<const Byte>(check.matrix<const T>("values", values, rows, width))},
            {bytes_of<Byte>(check.matrix<T>("key_store", key_store, tokens, width)),
             bytes_of<Byte>(check.matrix<T>("value_store", value_store, tokens, width))},
            2,
            check.vector<const int64_t>("token_index", token_index, rows),
            live_rows(check, row_count),
            rows,
            width * int64_t(sizeof(T))};
        check_sizes("write_kv", rows, 0);
        const Device device(keys);
        check_launch("write_kv", cuda::scatter_rows(args, device.stream()));
    });
}

void scatter_rows(Tensor rows, Tensor row_index, std::optional<Tensor> row_count, Tensor out) {
    for_row_dtype("scatter_rows", rows, [&](auto element) {
        using T = decltype(element);
        using Byte = unsigned char;
        const Arguments check("scatter_rows", rows);
        const auto [count, width] = check.sizes("rows", rows);
        const int64_t tokens = check.sizes("out", out).first;
        const cuda::ScatterRows args{
            {bytes_of<const Byte>(check.matrix<const T>("rows", rows, count, width)), {}},
            {bytes_of<Byte>(check.matrix<T>("out", out, tokens, width)), {}},
            1,
            check.vector<const int64_t>("row_index", row_index, count),
            live_rows(check, row_count),
            count,
            width * int64_t(sizeof(T))};
        check_sizes("scatter_rows", count, 0);
        const Device device(rows);
        check_launch("scatter_rows", cuda::scatter_rows(args, device.stream()));
    });
}

void add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps,
                    std::optional<Tensor> row_count, Tensor out) {
    for_row_dtype("add_layer_norm", x, [&](auto element) {
        using T = decltype(element);
        const Arguments check("add_layer_norm", x);
        const auto [rows, width] = check.sizes("x", x);
        const cuda::AddLayerNorm<T> args{check.matrix<const T>("x", x, rows, width),
                                         check.matrix<const T>("residual", residual, rows, width),
                                         norm_of<T>(check, weight, bias, eps, width),
                                         live_rows(check, row_count),
                                         check.matrix<T>("out", out, rows, width),
                                         rows,
                                         width};
        check_sizes("add_layer_norm", rows, width);
        const Device device(x);
        check_launch("add_layer_norm", cuda::add_layer_norm(args, device.stream()));
    });
}

void ragged_attention(Tensor queries, Tensor key_store, Tensor value_store, Tensor query_offsets,
                      Tensor key_offsets, Tensor token_index, Tensor positions, int64_t heads,
                      std::optional<Tensor> distance_embedding, bool key_distances, Tensor out) {
    for_row_dtype("ragged_attention", queries, [&](auto element) {
        using T = decltype(element);
        const Arguments check("ragged_attention", queries);
        const auto [rows, hidden] = check.sizes("queries", queries);
        const int64_t tokens = check.sizes("key_store", key_store).first;
        const int64_t sequences = check.sequences("key_offsets", key_offsets);
        AAF_CHECK(heads > 0 && hidden % heads == 0, "ragged_attention: ", hidden,
                  " columns cannot be divided among ", heads, " heads.");
        cuda::RaggedAttention<T> args{
            check.matrix<const T>("queries", queries, rows, hidden),
            check.matrix<const T>("key_store", key_store, tokens, hidden),
            check.matrix<const T>("value_store", value_store, tokens, hidden),
            check.vector<const int64_t>("query_offsets", query_offsets, sequences + 1),
            check.vector<const int64_t>("key_offsets", key_offsets, sequences + 1),
            check.vector<const int64_t>("token_index", token_index, rows),
            check.vector<const int64_t>("positions", positions, tokens),
            rows,
            sequences,
            heads,
            hidden / heads,
            {nullptr, 0},
            0,
            key_distances,
            check.matrix<T>("out", out, rows, hidden)};
        AAF_CHECK(args.head_size <= cuda::kMaxHeadSize, "ragged_attention: a head has ",
                  args.head_size, " columns, expected at most ", cuda::kMaxHeadSize, ".");
        AAF_CHECK(heads <= UINT16_MAX, "ragged_attention: got ", heads, " heads, expected at most ",
                  UINT16_MAX, ".");
        if (distance_embedding.has_value()) {
            args.distances = check.sizes("distance_embedding", *distance_embedding).first;
            args.distance_embedding = check.matrix<const T>(
                "distance_embedding", *distance_embedding, args.distances, args.head_size);
        }
        check_sizes("ragged_attention", rows, 0);
        const Device device(queries);
        check_launch("ragged_attention", cuda::ragged_attention(args, device.stream()));
    });
}

void halting_step(Tensor ffn_output, std::optional<Tensor> ffn_input, Tensor hidden,
                  Tensor ln_weight, Tensor ln_bias, double eps, Tensor halting_weight,
                  Tensor halting_bias, double threshold, int64_t iteration, bool last,
                  Tensor accumulated_probability, Tensor token_index, Tensor query_offsets,
                  Tensor next_hidden, Tensor next_accumulated_probability, Tensor next_token_index,
                  Tensor next_query_offsets, Tensor workspace, Tensor out, Tensor n_updates,
                  Tensor remainders) {
    for_row_dtype("halting_step", hidden, [&](auto element) {
        using T = decltype(element);
        const Arguments check("halting_step", hidden);
        const auto [rows, width] = check.sizes("hidden", hidden);
        const int64_t tokens = check.sizes("out", out).first;
        const int64_t sequences = check.sequences("query_offsets", query_offsets);
        AAF_CHECK(threshold == threshold, "halting_step: threshold is NaN, expected a number.");
        const cuda::HaltingStep<T> args{
            check.matrix<const T>("ffn_output", ffn_output, rows, width),
            check.matrix<const T>("ffn_input", ffn_input, rows, width),
            check.matrix<const T>("hidden", hidden, rows, width),
            norm_of<T>(check, ln_weight, ln_bias, eps, width),
            check.matrix<const T>("halting_weight", halting_weight, 1, width).data,
            check.vector<const T>("halting_bias", halting_bias, 1),
            float(threshold),
            iteration,
            last,
            check.vector<const float>("accumulated_probability", accumulated_probability, rows),
            check.vector<const int64_t>("token_index", token_index, rows),
            check.vector<const int64_t>("query_offsets", query_offsets, sequences + 1),
            rows,
            sequences,
            width,
            check.matrix<T>("next_hidden", next_hidden, rows, width),
            check.vector<float>("next_accumulated_probability", next_accumulated_probability, rows),
            check.vector<int64_t>("next_token_index", next_token_index, rows),
            check.vector<int64_t>("next_query_offsets", next_query_offsets, sequences + 1),
            reinterpret_cast<uint64_t*>(check.vector<int64_t>(
                "workspace", workspace, rows + cuda::kHaltingWorkspaceHeader)),
            check.matrix<T>("out", out, tokens, width),
            check.vector<float>("n_updates", n_updates, tokens),
            check.vector<float>("remainders", remainders, tokens)};
        check_sizes("halting_step", rows, width);
        const Device device(hidden);
        check_launch("halting_step", cuda::halting_step(args, device.stream()));
    });
}

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, AAF_CUDA_DISPATCH_KEY, m) {
    using namespace albert_act_fast::binding;
    m.impl("embed_tokens.cuda", TORCH_BOX(&embed_tokens));
    m.impl("write_kv.cuda", TORCH_BOX(&write_kv));
    m.impl("scatter_rows.cuda", TORCH_BOX(&scatter_rows));
    m.impl("add_layer_norm.cuda", TORCH_BOX(&add_layer_norm));
    m.impl("ragged_attention.cuda", TORCH_BOX(&ragged_attention));
    m.impl("halting_step.cuda", TORCH_BOX(&halting_step));
}
