// All iterations of a batch below Python; the same loop as albert_act_fast/engine/loop.py, with the
// products by oneDNN on weights packed beforehand.
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "cpu_ops.h"

namespace albert_act_fast::binding {
namespace {

// A weight packed by `mkldnn::_reorder_linear_weight`, and its bias.
struct Linear {
    Tensor weight, bias;

    // x W^T + bias, and then `activation`: "none", "gelu", "gelu_tanh", "relu" or "silu".
    Tensor operator()(const Tensor& x, const std::string& activation = "none") const {
        using torch::stable::detail::from;
        const bool tanh = activation == "gelu_tanh";
        const std::string name = tanh ? "gelu" : activation == "silu" ? "swish" : activation;
        const std::string algorithm = name == "gelu" ? (tanh ? "tanh" : "none") : "";
        std::array<StableIValue, 6> stack{from(x),
                                          from(weight),
                                          from(std::optional<Tensor>(bias)),
                                          from(name),
                                          from(std::vector<std::optional<double>>()),
                                          from(std::optional<std::string>(algorithm))};
        STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("mkldnn::_linear_pointwise", "",
                                                            stack.data(), TORCH_ABI_VERSION));
        return torch::stable::detail::to<Tensor>(stack[0]);
    }
};

// The rows that a product is run on for `rows` live ones. oneDNN compiles a kernel for every number
// of rows it meets, which takes longer than running it; with the running rows changing in every
// iteration of every batch, most products would wait for a compiler. So their number is rounded up;
// what the rows in excess hold goes nowhere. In float32 time grows row by row, so the steps are
// small; in half precision the matrix unit takes 16 rows at a time anyway.
int64_t rounded_up(int64_t rows, ScalarType dtype) {
    int64_t step;
    if (dtype == ScalarType::Float)
        step = rows <= 64 ? 4 : rows <= 256 ? 8 : rows <= 512 ? 16 : rows <= 2048 ? 32 : 128;
    else
        step = rows <= 256 ? 16 : rows <= 512 ? 32 : rows <= 2048 ? 64 : 256;
    return (rows + step - 1) / step * step;
}

Tensor rows_of(Tensor tensor, int64_t count) {
    return torch::stable::narrow(tensor, 0, 0, count);
}

Tensor columns_of(Tensor tensor, int64_t first, int64_t count) {
    return torch::stable::narrow(tensor, 1, first, count);
}

int64_t* integers(const Tensor& tensor) {
    return static_cast<int64_t*>(tensor.data_ptr());
}

// What moves from one iteration to the next.
struct Running {
    Tensor hidden, accumulated_probability, token_index, query_offsets;

    static Running like(const Tensor& hidden, const Tensor& state, const Tensor& index,
                        const Tensor& offsets, int64_t capacity) {
        using torch::stable::empty_like;
        // Zeros, not anything: arithmetic on what happens to lie there could be slow.
        return {torch::stable::new_zeros(hidden, {capacity, hidden.size(1)}), empty_like(state),
                empty_like(index), empty_like(offsets)};
    }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> iterate(
    Tensor hidden, Tensor offsets, Tensor positions, std::vector<Tensor> linear,
    std::vector<Tensor> norms, Tensor halting_weight, Tensor halting_bias, double attention_eps,
    double output_eps, int64_t heads, std::optional<Tensor> distance_embedding, bool key_distances,
    std::string activation, double threshold, int64_t max_iterations) {
    STD_TORCH_CHECK(linear.size() == 10 && norms.size() == 4,
                    "iterate: expected 5 packed weights with their biases and 2 LayerNorms.");
    const Linear key_value{linear[0], linear[1]}, query{linear[2], linear[3]},
        dense{linear[4], linear[5]}, ffn{linear[6], linear[7]}, ffn_output{linear[8], linear[9]};
    const int64_t tokens = hidden.size(0), width = hidden.size(1);
    STD_TORCH_CHECK(hidden.scalar_type() != ScalarType::Double, "iterate: no float64 products.");
    Tensor out = torch::stable::empty_like(hidden);
    Tensor n_updates = torch::stable::new_empty(hidden, {tokens}, ScalarType::Float);
    Tensor remainders = torch::stable::empty_like(n_updates);
    Tensor running_rows = torch::stable::new_zeros(offsets, {max_iterations});
    const ScalarType dtype = hidden.scalar_type();
    const int64_t capacity = rounded_up(tokens, dtype);
    Tensor attended = torch::stable::new_zeros(hidden, {capacity, width});
    Tensor ffn_input = torch::stable::new_zeros(hidden, {capacity, width});

    Tensor index = torch::stable::empty_like(positions);
    for (int64_t i = 0; i < tokens; ++i) integers(index)[i] = i;
    // Two sets of buffers take turns.
    Running sets[2] = {Running::like(hidden, n_updates, index, offsets, capacity),
                       Running::like(hidden, n_updates, index, offsets, capacity)};
    Running now{sets[0].hidden, sets[0].accumulated_probability, index, offsets};
    Tensor first = rows_of(now.hidden, tokens);
    torch::stable::copy_(first, hidden);
    torch::stable::zero_(now.accumulated_probability);

    Tensor moved = now.hidden, moved_index = index, store;
    int64_t iteration = 1, moved_rows = tokens, rows = tokens;
    for (;; ++iteration) {
        integers(running_rows)[iteration - 1] = rows;
        const int64_t wide = rounded_up(rows, dtype);
        Tensor moved_kv =
            rows_of(key_value(rows_of(moved, rounded_up(moved_rows, dtype))), moved_rows);
        if (iteration == 1)
            store = moved_kv;
        else
            scatter_rows(moved_kv, moved_index, {}, store);
        Tensor queries = rows_of(query(rows_of(now.hidden, wide)), rows);
        Tensor running = rows_of(now.hidden, rows), input = rows_of(ffn_input, rows);
        ragged_attention(queries, columns_of(store, 0, width), columns_of(store, width, width),
                         now.query_offsets, offsets, now.token_index, positions, heads,
                         distance_embedding, key_distances, rows_of(attended, rows));
        Tensor projected = dense(rows_of(attended, wide));
        add_layer_norm(rows_of(projected, rows), running, norms[0], norms[1], attention_eps, {},
                       input);
        Tensor output = ffn_output(ffn(rows_of(ffn_input, wide), activation));

        Running& next = sets[iteration % 2];
        moved = next.hidden;
        moved_rows = rows;
        moved_index = rows_of(next.token_index, rows);
        halting_step(rows_of(output, rows), input, running, norms[2], norms[3], output_eps,
                     halting_weight, halting_bias, threshold, iteration,
                     iteration == max_iterations, now.accumulated_probability, now.token_index,
                     now.query_offsets, rows_of(next.hidden, rows),
                     rows_of(next.accumulated_probability, rows), moved_index, next.query_offsets,
                     torch::stable::new_zeros(offsets, {rows + 8}), out, n_updates, remainders);
        rows = integers(next.query_offsets)[offsets.size(0) - 1];
        now = {next.hidden, rows_of(next.accumulated_probability, rows),
               rows_of(next.token_index, rows), next.query_offsets};
        if (rows == 0) break;
    }
    return {out, n_updates, remainders, running_rows};
}

// int64 [tensors]: of each contiguous tensor a checksum of all its bytes.
Tensor checksum(std::vector<Tensor> tensors) {
    STD_TORCH_CHECK(!tensors.empty(), "checksum: got no tensor, expected at least one.");
    Tensor result =
        torch::stable::new_empty(tensors[0], {int64_t(tensors.size())}, ScalarType::Long);
    for (size_t i = 0; i < tensors.size(); ++i) {
        STD_TORCH_CHECK(tensors[i].is_contiguous() && tensors[i].is_cpu(),
                        "checksum: expected contiguous CPU tensors.");
        const auto* data = static_cast<const unsigned char*>(tensors[i].data_ptr());
        const int64_t bytes = tensors[i].numel() * int64_t(tensors[i].element_size());
        std::atomic<uint64_t> sum{uint64_t(bytes)};
        torch::stable::parallel_for(0, bytes / 8, 1 << 16, [&](int64_t begin, int64_t end) {
            sum += cpu::checksum(data, begin, end - begin);
        });
        uint64_t tail = 0;
        memcpy(&tail, data + bytes / 8 * 8, size_t(bytes % 8));
        integers(result)[i] = int64_t(sum + cpu::checksum(&tail, 0, 1));
    }
    return result;
}

}  // namespace
}  // namespace albert_act_fast::binding

// Packed weights are tensors of another dispatch key than the rows, so the key is the general one.
STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CompositeExplicitAutograd, m) {
    m.impl("iterate.cpp", TORCH_BOX(&albert_act_fast::binding::iterate));
    m.impl("checksum.cpp", TORCH_BOX(&albert_act_fast::binding::checksum));
}
