// Keys and values on their way into the store (KeyValueStore in kernels.h). Included inside an
// instruction set's namespace.
#pragma once

// A number as the store's element, and as many numbers as are left of a word as its word.
inline float element_of(float x) {
    return x;
}
inline double element_of(double x) {
    return x;
}
inline float element_of(Half x) {
    return load(x);
}
inline BFloat16 element_of(BFloat16 x) {
    return x;
}

// One key into its column of a panel.
template <class T, class Word>
inline __attribute__((always_inline)) void write_column(const T* x, int64_t size, Word* column) {
    for (int64_t i = 0; i < size; ++i) column[i * kPanel] = element_of(x[i]);
}
inline __attribute__((always_inline)) void write_column(const BFloat16* x, int64_t size,
                                                        BFloat16Pair* column) {
    for (int64_t i = 0; i < size / 2; ++i)
        column[i * kPanel].bits = x[2 * i].bits | uint32_t(x[2 * i + 1].bits) << 16;
    if (size % 2 != 0) column[size / 2 * kPanel].bits = x[size - 1].bits;
}

// One value into a row of words, or into a half of each; the other halves, which another worker may
// be writing, are not touched.
template <class T, class Element>
inline __attribute__((always_inline)) void write_words(const T* x, int64_t size, Element* words) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) words[i] = element_of(x[i]);
}
inline __attribute__((always_inline)) void write_words(const BFloat16* x, int64_t size,
                                                       BFloat16* words) {
    store_every_other(x, size, words);
}

// Two rows of values into words that are theirs alone.
inline __attribute__((always_inline)) void write_pairs(const BFloat16* x, const BFloat16* y,
                                                       int64_t size, BFloat16* words) {
    constexpr int lanes = kLanes<float>;
    typedef uint32_t Bits __attribute__((vector_size(AAF_REGISTER_BYTES)));
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        const Bits pairs = (Bits)load_lanes(x + i) >> 16 | (Bits)load_lanes(y + i);
        *(Integers*)(words + 2 * i) = (Integers)pairs;
    }
    for (; i < size; ++i) {
        words[2 * i] = x[i];
        words[2 * i + 1] = y[i];
    }
}

// Rows of neighbouring keys: those whose words of a column lie in one register, by their places in
// it. A key by itself writes a word into each of as many cache lines as it has words.
template <class T>
struct KeyLine {
    static constexpr int kKeys = kLanes<float>;
    const T *keys[kKeys] = {}, *values[kKeys] = {};  // null where there is none
    uint32_t places = 0;                             // a bit for each that there is

    void add(const T* key, const T* value, int place) {
        keys[place] = key;
        values[place] = value;
        places |= uint32_t(1) << place;
    }
    bool has(int place) const { return places >> place & 1; }
    int count() const { return __builtin_popcount(places); }
};

// Lanes of two registers in turn: those of the lower halves, those of the upper ones.
inline __attribute__((always_inline)) Integers zip_lower(Integers a, Integers b) {
#if AAF_REGISTER_BYTES == 64
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif AAF_REGISTER_BYTES == 32
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
inline __attribute__((always_inline)) Integers zip_upper(Integers a, Integers b) {
#if AAF_REGISTER_BYTES == 64
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
#elif AAF_REGISTER_BYTES == 32
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// As many words of a line's keys as a register holds, to the columns of a panel. False, and nothing
// written, where single words are as fast.
template <class T>
inline __attribute__((always_inline)) bool write_block(const KeyLine<T>& line, int64_t offset,
                                                       Integers* to) {
    constexpr int lanes = kLanes<float>;
#if defined(AAF_AVX512)
    if (line.count() < 3) return false;
#else
    if (line.count() < lanes) return false;
#endif
    Integers x[lanes], y[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
        x[i] = line.has(i) ? *(const Integers*)(line.keys[i] + offset) : Integers{};
#pragma GCC unroll 4
    for (int round = 1; round < lanes; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < lanes / 2; ++i) {
            y[2 * i] = zip_lower(x[i], x[i + lanes / 2]);
            y[2 * i + 1] = zip_upper(x[i], x[i + lanes / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) x[i] = y[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
#if defined(AAF_AVX512)
        _mm512_mask_storeu_epi32((int32_t*)to + i * kPanel, __mmask16(line.places), (__m512i)x[i]);
#else
        *(Integers*)((int32_t*)to + i * kPanel) = x[i];
#endif
    }
    return true;
}

// One head of a line's keys and values.
template <class T>
void write_head(const KeyLine<T>& line, const KeyValueStore<T>& store, int64_t column,
                typename KeyValueStore<T>::Word* keys, typename KeyValueStore<T>::Element* values,
                int64_t value_stride) {
    constexpr int64_t step = KeyValueStore<T>::kStep;
    constexpr int lanes = KeyLine<T>::kKeys;
    const int64_t size = store.head_size;
    int64_t first = 0;  // number of each key that is not written yet
    if constexpr (__is_same(T, float) || __is_same(T, BFloat16))
        while (first + lanes * step <= size &&
               write_block(line, column + first, (Integers*)(keys + first / step * kPanel)))
            first += lanes * step;
    if (first < size)
        for (int i = 0; i < lanes; ++i)
            if (line.has(i))
                write_column(line.keys[i] + column + first, size - first,
                             keys + first / step * kPanel + i);
    for (int64_t c = 0; c < size; c += kPanel, values += value_stride) {
        const int64_t count = size - c < kPanel ? size - c : kPanel;
        for (int i = 0; i < lanes; i += int(step)) {
            auto* to = values + i * kPanel;
            if constexpr (step == 2)
                if (line.has(i) && line.has(i + 1)) {
                    write_pairs(line.values[i] + column + c, line.values[i + 1] + column + c, count,
                                to);
                    continue;
                }
            for (int j = 0; j < step; ++j)
                if (line.has(i + j)) write_words(line.values[i + j] + column + c, count, to + j);
        }
    }
}

template <class T>
void write_keys_values(const WriteKeysValues<T>& args, int64_t begin, int64_t end) {
    using Store = KeyValueStore<T>;
    constexpr int64_t step = Store::kStep, lanes = KeyLine<T>::kKeys;
    const Store& store = args.store;
    const auto sequence_of = [&](int64_t r) { return args.sequence[args.token_index[r]]; };
    // Counted from the beginning of the sequence's first panel.
    const auto key_of = [&](int64_t r, int64_t b) {
        return args.token_index[r] - store.key_offsets[b] + store.first_in_panel(b);
    };
    for (int64_t r = begin; r < end;) {
        const int64_t b = sequence_of(r), first = key_of(r, b) / lanes * lanes;
        KeyLine<T> line;
        do {
            line.add(args.keys.row(r), args.values.row(r), int(key_of(r, b) - first));
            ++r;
        } while (r < end && sequence_of(r) == b && key_of(r, b) / lanes * lanes == first);
        for (int64_t head = 0; head < store.heads; ++head)
            write_head(line, store, head * store.head_size,
                       reinterpret_cast<typename Store::Word*>(store.keys(b, head)) +
                           first / kPanel * store.key_words() * kPanel + first % kPanel,
                       store.values(b, head) + first / step * kPanel * step, store.value_stride(b));
    }
}
