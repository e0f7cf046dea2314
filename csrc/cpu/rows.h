// LayerNorm over one row and the kernels made of it. Included inside an instruction set's
// namespace.
#pragma once

// out[i] = LayerNorm(row)[i]; `out` may be `row`.
template <class T, class A>
inline __attribute__((always_inline)) void normalize(const A* row, const LayerNorm<T>& norm,
                                                     int64_t width, A* out) {
    const A mean = sum(row, width) / A(width);
    const A scale = layer_norm_scale(sum_of_squares(row, mean, width), A(width), A(norm.eps),
                                     [](A x) { return A(__builtin_sqrt(double(x))); });
#pragma omp simd
    for (int64_t i = 0; i < width; ++i)
        out[i] =
            layer_norm_element(row[i], mean, scale, A(load(norm.weight[i])), A(load(norm.bias[i])));
}

template <class T, class A>
inline __attribute__((always_inline)) void store_row(const A* row, int64_t width, T* out) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(row[i], out + i);
}

// Uninitialised memory of a worker, given back at the end of the scope.
template <class A>
struct Scratch {
    explicit Scratch(int64_t count)
        : data(static_cast<A*>(__builtin_malloc(size_t(count > 0 ? count : 1) * sizeof(A)))) {
        if (data == nullptr) __builtin_trap();
    }
    ~Scratch() { __builtin_free(data); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    A* const data;
};

template <class T>
void embed_tokens(const EmbedTokens<T>& args, int64_t begin, int64_t end) {
    using A = Arithmetic<T>;
    Scratch<A> row(args.width);
    for (int64_t r = begin; r < end; ++r) {
        const T* word = args.word.row(args.token_ids[r]);
        const T* type = args.token_type.row(args.token_type_ids[r]);
#pragma omp simd
        for (int64_t i = 0; i < args.width; ++i) row.data[i] = load(word[i]) + load(type[i]);
        if (args.position.data != nullptr) {
            const T* position = args.position.row(args.position_ids[r]);
#pragma omp simd
            for (int64_t i = 0; i < args.width; ++i) row.data[i] += load(position[i]);
        }
        normalize(row.data, args.norm, args.width, row.data);
        store_row(row.data, args.width, args.out.row(r));
    }
}

template <class T>
void add_layer_norm(const AddLayerNorm<T>& args, int64_t begin, int64_t end) {
    using A = Arithmetic<T>;
    Scratch<A> row(args.width);
    for (int64_t r = begin; r < end; ++r) {
        const T *x = args.x.row(r), *residual = args.residual.row(r);
#pragma omp simd
        for (int64_t i = 0; i < args.width; ++i) row.data[i] = load(x[i]) + load(residual[i]);
        normalize(row.data, args.norm, args.width, row.data);
        store_row(row.data, args.width, args.out.row(r));
    }
}
