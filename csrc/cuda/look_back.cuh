// A running sum over blocks of one launch by decoupled look-back (Merrill & Garland, "Single-pass
// Parallel Prefix Scan with Decoupled Look-back", 2016): each block publishes its own count, adds
// up the counts of the blocks before it until it meets one that knows its running sum, and
// publishes its own running sum for those after it.
//
// Tiles are numbered in the order in which blocks begin, by a ticket, so that a block waits only
// for blocks that have begun; none of these waits for a later one.
#pragma once

#include "device.cuh"

namespace albert_act_fast::cuda {

// What a tile says of itself in one word of memory, so that it is read whole: 0 where it has said
// nothing yet. The number of rows in the low half, flags in the high one.
struct Status {
    static constexpr uint64_t kCount = uint64_t(1) << 32;    // the tile's own rows
    static constexpr uint64_t kRunning = uint64_t(1) << 33;  // and all rows before
    static constexpr uint64_t kAsking = uint64_t(1) << 34;   // one of them asks for an iteration

    static __device__ __forceinline__ uint64_t word(uint64_t kind, unsigned count, bool asking) {
        return kind | (asking ? kAsking : 0) | count;
    }
    static __device__ __forceinline__ unsigned count(uint64_t word) { return unsigned(word); }
    static __device__ __forceinline__ bool asking(uint64_t word) { return (word & kAsking) != 0; }
};

// By one whole warp of the block that has `tile`: publishes its `count` of rows, and gives the
// count of all tiles before it. What was asked before is handed on with the count.
__device__ __forceinline__ unsigned look_back(uint64_t* status, int64_t tile, unsigned count,
                                              bool asking) {
    unsigned before = 0;
    bool asked = asking;
    if (tile > 0) {
        if (lane() == 0) store_release(status + tile, Status::word(Status::kCount, count, asking));
        for (int64_t nearest = tile - 1;; nearest -= kWarp) {
            // Lane i looks at tile nearest - i; before the first tile there are 0 rows in all.
            const int64_t other = nearest - lane();
            uint64_t word;
            unsigned needed, running;
            do {
                word = other < 0 ? Status::kRunning : load_acquire(status + other);
                running = __ballot_sync(kAllLanes, (word & Status::kRunning) != 0);
                // Up to the nearest tile that knows its running sum.
                needed = running == 0 ? kAllLanes : running ^ (running - 1);
            } while ((__ballot_sync(kAllLanes, word != 0) & needed) != needed);
            const bool counts = (needed >> lane() & 1) != 0;
            before += __reduce_add_sync(kAllLanes, counts ? Status::count(word) : 0);
            asked |= __any_sync(kAllLanes, counts && Status::asking(word)) != 0;
            if (running != 0) break;
        }
    }
    if (lane() == 0)
        store_release(status + tile, Status::word(Status::kRunning, before + count, asked));
    return before;
}

}  // namespace albert_act_fast::cuda
