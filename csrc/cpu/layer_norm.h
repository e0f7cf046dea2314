// LayerNorm over one row and the kernels made of it. Included inside an instruction set's
// namespace.
#pragma once

// out[i] = LayerNorm(row)[i]; total: the row's sum. `out` may be `row`.
template <class T, class A, class Out>
inline __attribute__((always_inline)) void normalize(const A* row, A total,
                                                     const LayerNorm<T>& norm, int64_t width,
                                                     Out* out) {
    const A mean = total / A(width);
    const A squares = sum_of<A>(width, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        const auto distance = lanes.load(row + i) - mean;
        return distance * distance;
    });
    const A scale = layer_norm_scale(squares, A(width), norm.eps,
                                     [](A x) { return A(__builtin_sqrt(double(x))); });
    for_lanes<A>(width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        lanes.store(layer_norm_element(lanes.load(row + i), mean, scale,
                                       lanes.load(norm.weight + i), lanes.load(norm.bias + i)),
                    out + i);
    });
}

// row = x; returns the row's sum.
template <class A, class X>
inline __attribute__((always_inline)) A copy(const X* x, int64_t width, A* row) {
    return sum_of<A>(width, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        const auto element = lanes.load(x + i);
        lanes.store(element, row + i);
        return element;
    });
}

// row = x + y, of which x may be the row itself; returns the row's sum.
template <class A, class X, class Y>
inline __attribute__((always_inline)) A add(const X* x, const Y* y, int64_t width, A* row) {
    return sum_of<A>(width, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        const auto element = lanes.load(x + i) + lanes.load(y + i);
        lanes.store(element, row + i);
        return element;
    });
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
        A total = add(args.word.row(args.token_ids[r]), args.token_type.row(args.token_type_ids[r]),
                      args.width, row.data);
        if (args.position.data != nullptr)
            total = add(row.data, args.position.row(args.position_ids[r]), args.width, row.data);
        normalize(row.data, total, args.norm, args.width, args.out.row(r));
    }
}

template <class T>
void add_layer_norm(const AddLayerNorm<T>& args, int64_t begin, int64_t end) {
    using A = Arithmetic<T>;
    Scratch<A> row(args.width);
    for (int64_t r = begin; r < end; ++r) {
        const A total = add(args.x.row(r), args.residual.row(r), args.width, row.data);
        normalize(row.data, total, args.norm, args.width, args.out.row(r));
    }
}
