// Ragged attention: running queries against all keys of their own sequence, one head at a time.
// Included inside an instruction set's namespace.
//
// A worker copies its sequence's keys (transposed) and values of one head into float scratch, then
// takes queries four at a time: scores over all keys, softmax, and the weighted sum of the values,
// all with the accumulators in registers. A sequence has at most a few hundred keys, so a row of
// scores fits the cache and needs no rescaling on the way.
#pragma once

constexpr int kQueriesAtOnce = 4;

template <class A>
inline __attribute__((always_inline)) int64_t padded(int64_t count) {
    return (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// c[q][j] = sum over i < depth of a[q][i] * b[i][j] for four rows q and `columns` j, a multiple of
// the vector; rows of b and c are `b_stride` and `c_stride` apart.
template <class A>
inline __attribute__((always_inline)) void multiply(const A* a, int64_t a_stride, const A* b,
                                                    int64_t b_stride, A* c, int64_t c_stride,
                                                    int64_t depth, int64_t columns) {
    int64_t j = 0;
    for (; j + 2 * kLanes<A> <= columns; j += 2 * kLanes<A>) {
        Vector<A> sum[kQueriesAtOnce][2] = {};
        for (int64_t i = 0; i < depth; ++i) {
            const Vector<A> first = load_vector(b + i * b_stride + j);
            const Vector<A> second = load_vector(b + i * b_stride + j + kLanes<A>);
            for (int q = 0; q < kQueriesAtOnce; ++q) {
                sum[q][0] += a[q * a_stride + i] * first;
                sum[q][1] += a[q * a_stride + i] * second;
            }
        }
        for (int q = 0; q < kQueriesAtOnce; ++q) {
            store_vector<A>(sum[q][0], c + q * c_stride + j);
            store_vector<A>(sum[q][1], c + q * c_stride + j + kLanes<A>);
        }
    }
    for (; j < columns; j += kLanes<A>) {
        Vector<A> sum[kQueriesAtOnce] = {};
        for (int64_t i = 0; i < depth; ++i) {
            const Vector<A> only = load_vector(b + i * b_stride + j);
            for (int q = 0; q < kQueriesAtOnce; ++q) sum[q] += a[q * a_stride + i] * only;
        }
        for (int q = 0; q < kQueriesAtOnce; ++q) store_vector<A>(sum[q], c + q * c_stride + j);
    }
}

// scores[0..count) become softmax(scores); what follows up to `columns` becomes 0.
template <class A>
inline __attribute__((always_inline)) void softmax(A* scores, int64_t count, int64_t columns) {
    A highest = scores[0];
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < count; ++j) highest = scores[j] > highest ? scores[j] : highest;
    for (int64_t j = count; j < columns; ++j) scores[j] = highest;
    for (int64_t j = 0; j < columns; j += kLanes<A>)
        store_vector<A>(exp_nonpositive(load_vector(scores + j) - highest), scores + j);
    for (int64_t j = count; j < columns; ++j) scores[j] = 0;
    const A scale = A(1) / sum(scores, count);
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) scores[j] *= scale;
}

// Adds q . e, or (q + k) . e, with e the embedding of the distance from query to key. `scratch`
// holds two heads.
template <class T, class A>
inline void add_relative(const RaggedAttention<T>& args, const A* query, int64_t query_position,
                         int64_t first_key, int64_t keys, int64_t column, A* scratch, A* scores) {
    A *with = scratch, *embedding = scratch + args.head_size;
    for (int64_t j = 0; j < keys; ++j) {
        const int64_t distance = query_position - args.positions[first_key + j];
        const T* e = args.distance_embedding.row(distance + args.distances / 2);
        const T* k = args.keys.row(first_key + j) + column;
#pragma omp simd
        for (int64_t i = 0; i < args.head_size; ++i) {
            embedding[i] = load(e[i]);
            with[i] = args.key_distances ? query[i] + A(load(k[i])) : query[i];
        }
        scores[j] += dot(with, embedding, args.head_size);
    }
}

template <class T>
void ragged_attention(const RaggedAttention<T>& args, const int64_t* items, int64_t begin,
                      int64_t end) {
    using A = Arithmetic<T>;
    const int64_t size = args.head_size, wide = padded<A>(size);
    int64_t longest = 0;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t b = items[3 * item];
        const int64_t keys = args.key_offsets[b + 1] - args.key_offsets[b];
        longest = keys > longest ? keys : longest;
    }
    const int64_t most = padded<A>(longest);
    Scratch<A> transposed(size * most), values(longest * wide), scores(kQueriesAtOnce * most);
    Scratch<A> queries(2 * kQueriesAtOnce * size), contexts(kQueriesAtOnce * wide);
    Scratch<A> relative(2 * size);
    const A scale = A(1) / A(__builtin_sqrt(double(size)));

    int64_t loaded_sequence = -1, loaded_head = -1;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t b = items[3 * item], first_query = items[3 * item + 1];
        const int64_t head = items[3 * item + 2];
        const int64_t first_key = args.key_offsets[b];
        const int64_t keys = args.key_offsets[b + 1] - first_key;
        const int64_t columns = padded<A>(keys), column = head * size;
        if (b != loaded_sequence || head != loaded_head) {
            for (int64_t j = 0; j < keys; ++j) {
                const T* k = args.keys.row(first_key + j) + column;
                const T* v = args.values.row(first_key + j) + column;
                for (int64_t i = 0; i < size; ++i) transposed.data[i * columns + j] = load(k[i]);
                for (int64_t i = 0; i < size; ++i) values.data[j * wide + i] = load(v[i]);
                for (int64_t i = size; i < wide; ++i) values.data[j * wide + i] = 0;
            }
            for (int64_t i = 0; i < size; ++i)
                for (int64_t j = keys; j < columns; ++j) transposed.data[i * columns + j] = 0;
            loaded_sequence = b;
            loaded_head = head;
        }
        const int64_t stop = args.query_offsets[b + 1];
        const int64_t last_query =
            first_query + kQueryBlock < stop ? first_query + kQueryBlock : stop;
        A* scaled = queries.data + kQueriesAtOnce * size;
        for (int64_t r = first_query; r < last_query; r += kQueriesAtOnce) {
            const int64_t count = last_query - r < kQueriesAtOnce ? last_query - r : kQueriesAtOnce;
            for (int64_t q = 0; q < kQueriesAtOnce; ++q) {
                // A group that is not full repeats its last query.
                const T* query = args.queries.row(r + (q < count ? q : count - 1)) + column;
                for (int64_t i = 0; i < size; ++i) {
                    queries.data[q * size + i] = load(query[i]);
                    scaled[q * size + i] = load(query[i]) * scale;
                }
            }
            multiply(scaled, size, transposed.data, columns, scores.data, columns, size, columns);
            for (int64_t q = 0; q < kQueriesAtOnce; ++q) {
                A* row = scores.data + q * columns;
                if (args.distance_embedding.data != nullptr && q < count)
                    add_relative(args, queries.data + q * size,
                                 args.positions[args.token_index[r + q]], first_key, keys, column,
                                 relative.data, row);
                softmax(row, keys, columns);
            }
            multiply(scores.data, columns, values.data, wide, contexts.data, wide, keys, wide);
            for (int64_t q = 0; q < count; ++q)
                store_row(contexts.data + q * wide, size, args.out.row(r + q) + column);
        }
    }
}
