#include "engine.h"

#include <torch/headeronly/util/Exception.h>

#include <cstring>

#include "launch.h"

namespace albert_act_fast::binding {
namespace {

template <class T>
T* data_of(const View& view) {
    STD_TORCH_CHECK(view.dtype == kScalarType<std::remove_const_t<T>>,
                    "engine: a tensor has another dtype than needed.");
    return static_cast<T*>(view.data);
}

template <class T>
Parameters<T> parameters(const View (&linear)[2]) {
    return {data_of<T>(linear[0]), data_of<T>(linear[1]), linear[0].shape[0], linear[0].shape[1]};
}

// A copy of a small tensor.
template <class T>
std::vector<T> copy_of(const View& view) {
    int64_t count = 1;
    for (const int64_t size : view.shape) count *= size;
    return {data_of<T>(view), data_of<T>(view) + count};
}

// What moves from one iteration to the next.
template <class T>
struct Running {
    Buffer hidden, accumulated_probability, token_index, query_offsets;
};

template <class T>
struct Workspace {
    Running<T> running[2];
    Buffer attended, ffn_input;
    Slot<T> store, moved, queries, projected, inner, output;
    QuantizedRows quantized;

    size_t bytes() const {
        size_t total = attended.bytes() + ffn_input.bytes() + quantized.values.bytes() +
                       quantized.scales.bytes();
        for (const auto& one : running)
            total += one.hidden.bytes() + one.accumulated_probability.bytes() +
                     one.token_index.bytes() + one.query_offsets.bytes();
        for (const Slot<T>* slot : {&store, &moved, &queries, &projected, &inner, &output})
            total += slot->buffer.bytes();
        return total;
    }
};

template <class T>
class EngineOf : public Engine {
  public:
    EngineOf(const Layer& layer, Weights weights, bool library)
        : width_(layer.query[0].shape[0]),
          projections_(
              {parameters<T>(layer.key), parameters<T>(layer.value), parameters<T>(layer.query)},
              weights, library),
          dense_({parameters<T>(layer.dense)}, weights, library),
          ffn_({parameters<T>(layer.ffn)}, weights, library),
          ffn_output_({parameters<T>(layer.ffn_output)}, weights, library),
          heads_(layer.heads),
          activation_(layer.activation),
          key_distances_(layer.key_distances),
          attention_eps_(layer.attention_eps),
          output_eps_(layer.output_eps) {
        for (int i = 0; i < 2; ++i) {
            attention_norm_[i] = copy_of<T>(layer.attention_norm[i]);
            output_norm_[i] = copy_of<T>(layer.output_norm[i]);
            halting_[i] = copy_of<T>(layer.halting[i]);
        }
        if (layer.distance_embedding.has_value()) {
            distance_embedding_ = copy_of<T>(*layer.distance_embedding);
            distances_ = layer.distance_embedding->shape[0];
        }
    }

    std::vector<int64_t> run(const Run& run) override {
        std::unique_lock<std::mutex> mine(mutex_, std::try_to_lock);
        if (mine.owns_lock()) return iterate(run, workspace_);
        Workspace<T> other;
        return iterate(run, other);
    }

    size_t packed_bytes() const override {
        return projections_.bytes() + dense_.bytes() + ffn_.bytes() + ffn_output_.bytes();
    }

    size_t workspace_bytes() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return workspace_.bytes();
    }

  private:
    std::vector<int64_t> iterate(const Run& run, Workspace<T>& space);

    // Projects keys and values of the rows that moved and queries of those that run on, which are
    // the first of them, and puts keys and values into the store (at once into its place in the
    // first iteration, when all tokens move in their order).
    struct Projected {
        cpu::Matrix<T> queries, store;
    };
    Projected project(const cpu::Matrix<T>& moved, int64_t moved_rows, int64_t rows,
                      const int64_t* moved_index, const cpu::Matrix<T>* store,
                      Workspace<T>& space) const;

    int64_t width_;
    Linear<T> projections_, dense_, ffn_, ffn_output_;
    std::vector<T> attention_norm_[2], output_norm_[2], halting_[2], distance_embedding_;
    int64_t heads_, distances_ = 0;
    Activation activation_;
    bool key_distances_;
    double attention_eps_, output_eps_;
    mutable std::mutex mutex_;
    Workspace<T> workspace_;
};

template <class T>
typename EngineOf<T>::Projected EngineOf<T>::project(const cpu::Matrix<T>& moved,
                                                     int64_t moved_rows, int64_t rows,
                                                     const int64_t* moved_index,
                                                     const cpu::Matrix<T>* store,
                                                     Workspace<T>& space) const {
    Slot<T>& slot = store == nullptr ? space.store : space.moved;
    cpu::Matrix<T> keys_values, queries;
    if (projections_.is_own(moved_rows)) {
        keys_values = projections_.own(moved, moved_rows, Activation::none, slot, space.quantized);
        queries = {keys_values.data + 2 * width_, keys_values.stride};
    } else {
        keys_values = projections_.library(moved, moved_rows, Activation::none, slot, 0, 2);
        queries = projections_.library(moved, rows, Activation::none, space.queries, 2, 1);
    }
    if (store == nullptr) return {queries, keys_values};
    scatter<T>({keys_values.data, keys_values.stride}, moved_index, *store, moved_rows, 2 * width_);
    return {queries, *store};
}

template <class T>
std::vector<int64_t> EngineOf<T>::iterate(const Run& run, Workspace<T>& space) {
    const int64_t tokens = run.hidden.shape[0], sequences = run.offsets.shape[0] - 1;
    const int64_t capacity = rounded_up(tokens, kScalarType<T>);
    const auto* key_offsets = data_of<const int64_t>(run.offsets);
    const auto* positions = data_of<const int64_t>(run.positions);
    const cpu::Matrix<T> attended{space.attended.template of<T>(capacity * width_), width_};
    const cpu::Matrix<T> ffn_input{space.ffn_input.template of<T>(capacity * width_), width_};
    struct Now {
        cpu::Matrix<T> hidden;
        float* accumulated_probability;
        int64_t *token_index, *query_offsets;
    };
    Now sets[2];
    for (int i = 0; i < 2; ++i) {
        Running<T>& set = space.running[i];
        sets[i] = {{set.hidden.template of<T>(capacity * width_), width_},
                   set.accumulated_probability.template of<float>(tokens),
                   set.token_index.template of<int64_t>(tokens),
                   set.query_offsets.template of<int64_t>(sequences + 1)};
    }
    memcpy(sets[0].hidden.data, data_of<const T>(run.hidden), size_t(tokens * width_) * sizeof(T));
    for (int64_t t = 0; t < tokens; ++t) {
        sets[0].accumulated_probability[t] = 0;
        sets[0].token_index[t] = t;
    }
    memcpy(sets[0].query_offsets, key_offsets, size_t(sequences + 1) * sizeof(int64_t));

    std::vector<int64_t> running_rows;
    cpu::Matrix<T> store{};
    int64_t rows = tokens, moved_rows = tokens;
    for (int64_t iteration = 1; rows > 0; ++iteration) {
        running_rows.push_back(rows);
        const Now &now = sets[(iteration - 1) % 2], &next = sets[iteration % 2];
        const Projected projected = project(now.hidden, moved_rows, rows, now.token_index,
                                            iteration == 1 ? nullptr : &store, space);
        store = projected.store;
        attend<T>(
            {{projected.queries.data, projected.queries.stride},
             {store.data, store.stride},
             {store.data + width_, store.stride},
             now.query_offsets,
             key_offsets,
             now.token_index,
             positions,
             width_ / heads_,
             {distance_embedding_.empty() ? nullptr : distance_embedding_.data(), width_ / heads_},
             distances_,
             key_distances_,
             attended},
            sequences, heads_);
        const cpu::Matrix<T> dense =
            dense_(attended, rows, Activation::none, space.projected, space.quantized);
        const cpu::AddLayerNorm<T> add{
            {dense.data, dense.stride},
            {now.hidden.data, now.hidden.stride},
            {attention_norm_[0].data(), attention_norm_[1].data(), attention_eps_},
            ffn_input,
            width_};
        for_rows(rows, [&](int64_t begin, int64_t end) {
            cpu::kernels<T>().add_layer_norm(add, begin, end);
        });
        const cpu::Matrix<T> inner =
            ffn_(ffn_input, rows, activation_, space.inner, space.quantized);
        const cpu::Matrix<T> output =
            ffn_output_(inner, rows, Activation::none, space.output, space.quantized);
        halt<T>({{output.data, output.stride},
                 {ffn_input.data, ffn_input.stride},
                 {now.hidden.data, now.hidden.stride},
                 {output_norm_[0].data(), output_norm_[1].data(), output_eps_},
                 halting_[0].data(),
                 load(halting_[1][0]),
                 float(run.threshold),
                 iteration,
                 iteration == run.max_iterations,
                 now.accumulated_probability,
                 now.token_index,
                 now.query_offsets,
                 sequences,
                 width_,
                 next.hidden,
                 next.accumulated_probability,
                 next.token_index,
                 next.query_offsets,
                 {data_of<T>(run.out), width_},
                 data_of<float>(run.n_updates),
                 data_of<float>(run.remainders),
                 nullptr,
                 nullptr,
                 nullptr});
        moved_rows = rows;
        rows = next.query_offsets[sequences];
    }
    return running_rows;
}

}  // namespace

std::unique_ptr<Engine> make_engine(const Layer& layer, Weights weights, bool library) {
    if (layer.query[0].dtype == ScalarType::Float)
        return std::make_unique<EngineOf<float>>(layer, weights, library);
    return std::make_unique<EngineOf<BFloat16>>(layer, weights, library);
}

}  // namespace albert_act_fast::binding
