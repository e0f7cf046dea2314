// A running sum over blocks of one launch by decoupled look-back (Merrill & Garland, "Single-pass
// Parallel Prefix Scan with Decoupled Look-back", 2016): each block publishes its own count, adds
// up the counts of the blocks before it until it meets one that knows its running sum, and
// publishes its own running sum for those after it.
//
// Tiles are numbered in the order in which blocks begin, by a ticket, so that a block waits only
// for blocks that have begun; none of these waits for a later one. All that blocks tell each other
// here stands in the one word that is read, so no other access has to be ordered with it.
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

// Tiles that a lane looks at before it waits for any: a warp sees 256 of them at once.
constexpr int kTilesALane = 8;

__device__ __forceinline__ uint64_t status_of(const uint64_t* status, int64_t tile) {
    return tile < 0 ? Status::kRunning : load_relaxed(status + tile);  // 0 rows before the first
}

// By one whole warp of the block that has `tile`: publishes its `count` of rows, and gives the
// count of all tiles before it. What was asked before is handed on with the count.
__device__ __forceinline__ unsigned look_back(uint64_t* status, int64_t tile, unsigned count,
                                              bool asking) {
    unsigned before = 0;
    bool asked = asking, found = tile == 0;
    if (!found && lane() == 0)
        store_relaxed(status + tile, Status::word(Status::kCount, count, asking));
    for (int64_t nearest = tile - 1 - lane(); !found; nearest -= kTilesALane * kWarp) {
        uint64_t words[kTilesALane];
#pragma unroll
        for (int j = 0; j < kTilesALane; ++j) words[j] = status_of(status, nearest - j * kWarp);
#pragma unroll
        for (int j = 0; j < kTilesALane; ++j) {
            if (found) break;
            unsigned needed, running;
            for (;;) {
                running = __ballot_sync(kAllLanes, (words[j] & Status::kRunning) != 0);
                // Up to the nearest tile that knows its running sum.
                needed = running == 0 ? kAllLanes : running ^ (running - 1);
                if ((__ballot_sync(kAllLanes, words[j] != 0) & needed) == needed) break;
                words[j] = status_of(status, nearest - j * kWarp);
            }
            const bool counts = (needed >> lane() & 1) != 0;
            before += __reduce_add_sync(kAllLanes, counts ? Status::count(words[j]) : 0);
            asked |= __any_sync(kAllLanes, counts && Status::asking(words[j])) != 0;
            found = running != 0;
        }
    }
    if (lane() == 0)
        store_relaxed(status + tile, Status::word(Status::kRunning, before + count, asked));
    return before;
}

}  // namespace albert_act_fast::cuda
