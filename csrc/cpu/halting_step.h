// The end of an iteration in one pass over the rows. Included inside an instruction set's
// namespace.
//
// Blocks of rows are taken in order by ticket. A block decides which of its rows go on, learns from
// the block before how many rows went on before it, tells the block after, and only then mixes and
// writes, each row straight to its packed slot. A block waits for earlier ones alone, and those
// were taken before it, so some worker always makes progress, whatever the number of threads.
#pragma once

inline __attribute__((always_inline)) void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

template <class T>
inline void halting_block(const HaltingStep<T>& args, const Quantize<T>* bytes, int64_t block,
                          int64_t live, const Arithmetic<T>* halting_weight,
                          Arithmetic<T>* candidates) {
    using A = Arithmetic<T>;
    const int64_t begin = block * kHaltingBlock;
    const int64_t end = begin + kHaltingBlock < live ? begin + kHaltingBlock : live;
    const int64_t width = args.width;
    Halting<A> rule[kHaltingBlock];
    int64_t running = 0, asking = 0;
    for (int64_t r = begin; r < end; ++r) {
        A* g = candidates + (r - begin) * width;
        const T* output = args.ffn_output.row(r);
        const A total = args.ffn_input.data == nullptr
                            ? copy(output, width, g)
                            : add(output, args.ffn_input.row(r), width, g);
        normalize(g, total, args.norm, width, g);
        const A logit = dot(g, halting_weight, width) + load(*args.halting_bias);
        const A p = A(1) / (A(1) + A(__builtin_exp(double(-logit))));
        rule[r - begin] = halting_rule(args.accumulated_probability[r], p, args.limits);
        rule[r - begin].goes_on &= !args.last;
        running += rule[r - begin].goes_on;
        asking += !args.last && rule[r - begin].asks;
    }

    uint64_t* const running_up_to = args.workspace + kHaltingWorkspaceHeader;
    uint64_t known = 1;
    if (block > 0)
        while ((known = __atomic_load_n(running_up_to + block - 1, __ATOMIC_ACQUIRE)) == 0) relax();
    __atomic_store_n(running_up_to + block, known + uint64_t(running), __ATOMIC_RELEASE);
    __atomic_fetch_add(args.workspace + kAsking, uint64_t(asking), __ATOMIC_RELAXED);
    const int64_t before = int64_t(known - 1);

    int64_t slot = before, left = begin - before;  // rows that left in earlier blocks
    // The first sequence that starts in this block.
    int64_t sequence = 0, last = args.sequences + 1;
    while (sequence < last) {
        const int64_t middle = (sequence + last) / 2;
        if (args.query_offsets[middle] < begin)
            sequence = middle + 1;
        else
            last = middle;
    }
    for (int64_t r = begin; r < end; ++r) {
        for (; sequence <= args.sequences && args.query_offsets[sequence] == r; ++sequence)
            args.next_query_offsets[sequence] = slot;
        const Halting<A>& row = rule[r - begin];
        const int64_t token = args.token_index[r];
        const int64_t to = row.goes_on ? slot++ : live - 1 - left++;
        const A* g = candidates + (r - begin) * width;
        const T* h = args.hidden.row(r);
        T* next = args.next_hidden.row(to);
        args.next_token_index[to] = token;
        for_lanes<A>(width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            lanes.store(row.weight * lanes.load(g + i) + (A(1) - row.weight) * lanes.load(h + i),
                        next + i);
        });
        if constexpr (kHasProducts<T>)
            if (bytes != nullptr) quantize(*bytes, to, to + 1);
        if (row.goes_on) {
            args.next_accumulated_probability[to] = row.accumulated;
        } else {
            __builtin_memcpy(args.out.row(token), next, size_t(width) * sizeof(T));
            args.n_updates[token] = A(row.updated ? args.iteration : args.iteration - 1);
            args.remainders[token] = row.remainder;
        }
    }
    if (end == live)
        for (; sequence <= args.sequences; ++sequence) args.next_query_offsets[sequence] = slot;
}

// Where no row that goes on asks for another iteration, all of them are finished after all.
template <class T>
void finish_rows(const HaltingStep<T>& args) {
    for (int64_t slot = 0; slot < args.next_query_offsets[args.sequences]; ++slot) {
        const int64_t token = args.next_token_index[slot];
        __builtin_memcpy(args.out.row(token), args.next_hidden.row(slot),
                         size_t(args.width) * sizeof(T));
        args.n_updates[token] = Arithmetic<T>(args.iteration);
        args.remainders[token] = 0;
    }
    for (int64_t b = 0; b <= args.sequences; ++b) args.next_query_offsets[b] = 0;
}

template <class T>
void halting_step(const HaltingStep<T>& args, const Quantize<T>* bytes) {
    const int64_t live = args.query_offsets[args.sequences];
    const int64_t blocks = halting_blocks(live);
    Scratch<Arithmetic<T>> weight(args.width), candidates(kHaltingBlock * args.width);
    for (int64_t i = 0; i < args.width; ++i) weight.data[i] = load(args.halting_weight[i]);
    for (;;) {
        const auto block =
            int64_t(__atomic_fetch_add(args.workspace + kTicket, 1, __ATOMIC_RELAXED));
        if (block >= blocks) return;
        halting_block(args, bytes, block, live, weight.data, candidates.data);
    }
}
