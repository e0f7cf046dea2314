// Ragged attention: running queries against all keys of their own sequence, one head at a time.
// Included inside an instruction set's namespace.
//
// As FlashAttention (Dao et al., arXiv 2205.14135) does it: a few queries at a time against a block
// of keys, weights and sums in the first cache, sums rescaled when a block raises the highest
// score. Both products are by panels, with the queries and the weights in the store's words.
#pragma once

constexpr int64_t kKeyBlock = 256;                // keys between two rescalings
constexpr int64_t kScoreStride = kKeyBlock + 16;  // rows not a power of 2 apart

// A vector of weights as the words they are multiplied as.
template <class A>
inline __attribute__((always_inline)) void store_weights(Vector<A> weights, A* words) {
    store_vector<A>(weights, words);
}
inline __attribute__((always_inline)) void store_weights(Vector<float> weights,
                                                         BFloat16Pair* words) {
    store_normal(weights, reinterpret_cast<BFloat16*>(words));
}

// The highest of a row's scores in a block, which are not yet scaled and become -infinity from
// `count` up to whole panels, and of those before. There are none before the first.
template <class A>
inline __attribute__((always_inline)) SoftmaxStep<A> look_for_highest(A* scores, int64_t count,
                                                                      A scale, bool first,
                                                                      A highest) {
    constexpr int lanes = kLanes<A>;
    const int64_t columns = panels_of(count) * kPanel;
    for (int64_t j = count; j < columns; ++j) scores[j] = -A(__builtin_inf());
    Vector<A> top = load_vector(scores);
    for (int64_t j = lanes; j < columns; j += lanes) top = larger(top, load_vector(scores + j));
    return softmax_step(highest, largest_lane<A>(top),
                        [first, scale](A x) __attribute__((always_inline)) {
                            return first ? A(0) : exp_nonpositive(Vector<A>{} + x * scale)[0];
                        });
}

// Those scores become weights relative to the highest score so far. Returns their sum.
//
// Scores are subtracted before they are scaled: the difference of two numbers is never above 0
// where the second is the larger. A scaled score is a product, which compilers contract with a
// subtraction; of huge scores the highest one, rounded, may then lie far below itself, not rounded.
template <bool kRounded, class A, class Word>
inline __attribute__((always_inline)) Sums<A> weigh(const A* scores, Word* words, int64_t count,
                                                    A scale, A highest) {
    const Vector<A> now = Vector<A>{} + highest;
    const auto weight = [&](int64_t j) __attribute__((always_inline)) {
        const Vector<A> weight = softmax_weight(
            load_vector(scores + j), now, [scale](Vector<A> x) __attribute__((always_inline)) {
                return exp_nonpositive<kRounded>(x * scale);
            });
        store_weights(weight, words + (__is_same(Word, A) ? j : j / 2));
        return weight;
    };
    Sums<A> even, odd;
    for (int64_t j = 0; j < panels_of(count) * kPanel; j += 2 * even.kAllLanes) {
        even.add(j, weight);
        odd.add(j + even.kAllLanes, weight);
    }
    even.add(odd);
    return even;
}

// Adds q . e, or (q + k) . e, with e the embedding of the distance from query to key, to the scores
// of `count` keys from `first` on; divided by `scale`, because the scores are not yet scaled.
// `scratch` holds three heads.
template <class T, class A>
inline void add_relative(const RaggedAttention<T>& args, const KeyValueStore<T>& store, int64_t row,
                         int64_t b, int64_t head, int64_t first, int64_t count, A scale, A* scratch,
                         A* scores) {
    constexpr int64_t step = KeyValueStore<T>::kStep;
    const int64_t size = store.head_size, first_token = store.key_offsets[b] + first;
    const int64_t position = args.positions[args.token_index[row]];
    const T* q = args.queries.row(row) + head * size;
    A *query = scratch, *with = scratch + size, *embedding = scratch + 2 * size;
    for (int64_t i = 0; i < size; ++i) query[i] = load(q[i]);
    for (int64_t j = 0; j < count; ++j) {
        const int64_t key = store.first_in_panel(b) + first + j;
        const auto* k =
            store.keys(b, head) + (key / kPanel * store.key_words() * kPanel + key % kPanel) * step;
        const int64_t distance = position - args.positions[first_token + j];
        const T* e = args.distance_embedding.row(distance + args.distances / 2);
        for (int64_t i = 0; i < size; ++i) {
            embedding[i] = load(e[i]);
            with[i] = query[i];
            if (args.key_distances) with[i] += load(k[i / step * kPanel * step + i % step]);
        }
        scores[j] += dot(with, embedding, size) / scale;
    }
}

// Scores are computed in `numbers` and, as weights, multiplied as `words`, which are the same
// memory where a word is a number.
template <class A, class Word>
struct Scores {
    explicit Scores(int64_t count) : memory(count), word_memory(kSame ? 0 : count / 2) {
        numbers = memory.data;
        if constexpr (kSame)
            words = numbers;
        else
            words = word_memory.data;
    }
    static constexpr bool kSame = sizeof(A) == sizeof(Word) && __is_same(A, Word);
    Scratch<A> memory;
    Scratch<Word> word_memory;
    A* numbers;
    Word* words;
};

template <class T>
struct AttentionScratch {
    using A = Arithmetic<T>;
    using Word = typename KeyValueStore<T>::Word;
    static constexpr int kRows = Multiplier<Word>::kRows;
    explicit AttentionScratch(const KeyValueStore<T>& store)
        : queries(kRows * store.key_words()),
          scores(kRows * kScoreStride),
          contexts(kRows * store.value_panels() * kPanel),
          relative(3 * store.head_size) {}
    Scratch<Word> queries;
    Scores<A, Word> scores;
    Scratch<A> contexts, relative;
    Multiplier<Word> multiply;
};

// At most AttentionScratch::kRows queries from row `first` on, against all keys of sequence b.
template <class T>
void attend_rows(const RaggedAttention<T>& args, const KeyValueStore<T>& store, int64_t b,
                 int64_t head, int64_t first, int64_t count, AttentionScratch<T>& scratch) {
    using A = Arithmetic<T>;
    using Store = KeyValueStore<T>;
    using Word = typename Store::Word;
    constexpr int64_t step = Store::kStep;
    const int64_t size = store.head_size, key_words = store.key_words();
    const int64_t wide = store.value_panels() * kPanel, column = store.first_in_panel(b);
    const int64_t all_keys = store.key_offsets[b + 1] - store.key_offsets[b];
    const A scale = A(1) / A(__builtin_sqrt(double(size)));
    constexpr int64_t most = AttentionScratch<T>::kRows;
    SoftmaxStep<A> steps[most];
    Sums<A> sums[most];
    A total[most];
    A* contexts = scratch.contexts.data;
    Word* weights = scratch.scores.words + (Scores<A, Word>::kSame ? column : 0);

    for (int64_t q = 0; q < count; ++q) {
        const T* query = args.queries.row(first + q) + head * size;
        Word* words = scratch.queries.data + q * key_words;
        words[key_words - 1] = {};  // holds half a query's word where `size` is odd
        auto* to = reinterpret_cast<typename Store::Element*>(words);
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) to[i] = element_of(query[i]);
    }
    for (int64_t from = 0; from < all_keys; from += kKeyBlock) {
        const int64_t keys = all_keys - from < kKeyBlock ? all_keys - from : kKeyBlock;
        const int64_t panels = panels_of(keys);
        const auto* key_panels = reinterpret_cast<const Word*>(store.keys(b, head));
        const auto* value_panels = reinterpret_cast<const Word*>(store.values(b, head));
        for (int64_t p = 0; p < panels; ++p)
            scratch.multiply(count, scratch.queries.data, key_words,
                             key_panels + (from / kPanel + p) * key_words * kPanel, key_words,
                             scratch.scores.numbers + p * kPanel, kScoreStride, true);
        // Of the keys of others in the panel nothing is read, and nothing depends on where in it
        // the sequence's own begin. One step for all rows, then the next: each takes a row long
        // from its first instruction to its last, in which the others' are computed.
        A* const scores = scratch.scores.numbers + column;
        for (int64_t q = 0; q < count; ++q) {
            if (args.distance_embedding.data != nullptr)
                add_relative(args, store, first + q, b, head, from, keys, scale,
                             scratch.relative.data, scores + q * kScoreStride);
            steps[q] = look_for_highest(scores + q * kScoreStride, keys, scale, from == 0,
                                        from == 0 ? -A(__builtin_inf()) : steps[q].highest);
        }
        for (int64_t q = 0; q < count; ++q)
            sums[q] = weigh<__is_same(T, BFloat16)>(scores + q * kScoreStride,
                                                    weights + q * kScoreStride / step, keys, scale,
                                                    steps[q].highest);
        for (int64_t q = 0; q < count; ++q) {
            total[q] = (from == 0 ? A(0) : total[q] * steps[q].rescale) + sums[q].total();
            if (from > 0)
                for (int64_t i = 0; i < wide; ++i) contexts[q * wide + i] *= steps[q].rescale;
        }
        for (int64_t c = 0; c < store.value_panels(); ++c)
            scratch.multiply(
                count, weights, kScoreStride / step,
                value_panels + (c * store.value_stride(b) + (column + from) * kPanel) / step,
                (keys + step - 1) / step, contexts + c * kPanel, wide, from == 0);
    }
    for (int64_t q = 0; q < count; ++q) {
        const A inverse = A(1) / total[q];
        T* out = args.out.row(first + q) + head * size;
        for_lanes<A>(size, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            lanes.store_normal(lanes.load(contexts + q * wide + i) * inverse, out + i);
        });
    }
}

template <class T>
void ragged_attention(const RaggedAttention<T>& args, const KeyValueStore<T>& store,
                      const int64_t* items, int64_t begin, int64_t end) {
    AttentionScratch<T> scratch(store);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t b = items[3 * item], first = items[3 * item + 1], head = items[3 * item + 2];
        const int64_t stop = args.query_offsets[b + 1];
        const int64_t rows = stop - first < kQueryBlock ? stop - first : kQueryBlock;
        const int64_t blocks = (rows + scratch.kRows - 1) / scratch.kRows;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t begins = first + rows * block / blocks;
            const int64_t ends = first + rows * (block + 1) / blocks;
            // The next queries, and the results' places, lie pages apart, where no processor looks
            // ahead by itself.
            for (int64_t next = ends; next < ends + scratch.kRows && next < first + rows; ++next)
                for (int64_t i = 0; i < store.head_size; i += 64 / int64_t(sizeof(T))) {
                    const int64_t column = head * store.head_size + i;
                    __builtin_prefetch(args.queries.row(next) + column);
                    __builtin_prefetch(args.out.row(next) + column, 1);
                }
            attend_rows(args, store, b, head, begins, ends - begins, scratch);
        }
    }
}
