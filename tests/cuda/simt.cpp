// The scheduler of simt.h. Never compiled with a sanitizer itself, so that its own bookkeeping is
// not taken for the kernels'; for the same reason fibers allocate nothing here, only launch() does.
// It tells the sanitizers, where they are linked, of stacks and of what orders threads.
#include "simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#error "fiber switching is written for x86-64"
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

// The sanitizers' side of fibers; null where they are not linked.
#define SIMT_WEAK __attribute__((weak))
extern "C" {
SIMT_WEAK void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
SIMT_WEAK void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size);
SIMT_WEAK void* __tsan_get_current_fiber();
SIMT_WEAK void* __tsan_create_fiber(unsigned flags);
SIMT_WEAK void __tsan_destroy_fiber(void* fiber);
SIMT_WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
SIMT_WEAK void __tsan_acquire(void* at);
SIMT_WEAK void __tsan_release(void* at);

void simt_switch(void** save, void* to);
}

// The registers that a called function must preserve, and the stack pointer.
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size simt_switch, .-simt_switch
)");

namespace simt {
namespace {

constexpr size_t kStack = 64 << 10, kGuard = 4096;
constexpr unsigned kWarp = 32, kMostThreads = 1024;
// Times that threads let others run before a barrier is passed or a thread is done; of 20,000 rows
// it is at most 255.
constexpr uint64_t kPatience = 100'000;

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    size_t stack_size = 0;
    void *asan = nullptr, *tsan = nullptr;
};

struct Block;

struct Thread : Fiber {
    Block* block = nullptr;
    unsigned index = 0;

    Thread() {
        char* memory = static_cast<char*>(mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, kGuard, PROT_NONE);
        stack = memory + kGuard;
        stack_size = kStack;
    }
    ~Thread() { munmap(stack - kGuard, kGuard + kStack); }
    Thread(const Thread&) = delete;
};

// Threads that wait for each other. A thread may be one meeting ahead of those that have yet to
// read what the last one brought, so there are two sets of values.
struct Meeting {
    explicit Meeting(size_t most) { waiting.reserve(most); }

    std::vector<Thread*> waiting;
    unsigned round = 0;
    int line = 0;
    uint64_t values[2][kWarp];
    char order = 0;  // what TSan knows the order by
};

struct Block {
    dim3 index;
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<std::unique_ptr<Meeting>> warps;
    std::unique_ptr<Meeting> barrier;
    unsigned left = 0;
    std::map<const void*, void*> shared;
    char order = 0;
};

struct Scheduler {
    uint64_t random = 1;
    unsigned resident = 4, pause_percent = 25;
    Fiber main;
    Thread* current = nullptr;
    std::vector<Thread*> ready;
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<uint64_t> order;  // in which blocks begin: random, as CUDA promises none
    uint64_t next_block = 0, idle = 0;
    // Shared memory that a thread asks for, and all that was given out.
    const void* wanted = nullptr;
    size_t wanted_bytes = 0, wanted_alignment = 0;
    std::vector<void*> memory;
    void (*body)(const void*) = nullptr;
    const void* args = nullptr;
    std::string error;
    char began = 0, ended = 0;
} scheduler;

uint64_t draw() {
    uint64_t& x = scheduler.random;
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
}

void acquire(char* at) {
    if (__tsan_acquire) __tsan_acquire(at);
}
void release(char* at) {
    if (__tsan_release) __tsan_release(at);
}

void switch_fiber(Fiber* from, Fiber* to, bool from_ends = false) {
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->asan, to->stack,
                                       to->stack_size);
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to->tsan, 1);  // 1: it orders nothing
    simt_switch(&from->stack_pointer, to->stack_pointer);
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(from->asan, nullptr, nullptr);
}

void give_way() {
    switch_fiber(scheduler.current, &scheduler.main);
}

[[noreturn]] void fail(const std::string& what, int line) {
    const dim3 block = scheduler.current->block->index;
    scheduler.error = what + " (line " + std::to_string(line) + ", block " +
                      std::to_string(block.x) + "," + std::to_string(block.y) + ", thread " +
                      std::to_string(scheduler.current->index) + ")";
    for (;;) give_way();
}

void make_ready(Thread* thread) {
    scheduler.ready.push_back(thread);
}

void thread_main() {
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
    acquire(&scheduler.began);
    scheduler.body(scheduler.args);
    Thread* me = scheduler.current;
    Block* block = me->block;
    release(&scheduler.ended);
    const Meeting& warp = *block->warps[me->index / kWarp];
    if (!block->barrier->waiting.empty())
        fail("a thread leaves while others wait at __syncthreads", block->barrier->line);
    if (!warp.waiting.empty()) fail("a thread leaves while others of its warp wait", warp.line);
    --block->left;
    scheduler.idle = 0;
    switch_fiber(me, &scheduler.main, true);
}

void prepare(Thread* thread) {
    if (__tsan_create_fiber) {
        // A new identity, which knows of nothing before but what this system thread knows, and new
        // memory: the stack's last user did not end in order with the next one.
        if (thread->tsan) __tsan_destroy_fiber(thread->tsan);
        thread->tsan = __tsan_create_fiber(0);
        mmap(thread->stack, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0);
    }
    // As if simt_switch had been called at the beginning of thread_main, which returns nowhere and
    // finds the stack pointer 8 bytes off a multiple of 16, as after a call.
    void** top = reinterpret_cast<void**>(thread->stack + kStack) - 3;
    *--top = reinterpret_cast<void*>(&thread_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    thread->stack_pointer = top;
}

// What the current thread asks for; NaN, or -1, until it is written.
void give_shared_memory() {
    void* memory = nullptr;
    if (posix_memalign(&memory, scheduler.wanted_alignment, scheduler.wanted_bytes))
        throw std::bad_alloc();
    memset(memory, 0xff, scheduler.wanted_bytes);
    Block* block = scheduler.current->block;
    block->shared[scheduler.wanted] = memory;
    release(&block->order);
    scheduler.memory.push_back(memory);
    scheduler.wanted = nullptr;
}

bool start_block(Block* block, dim3 grid, unsigned threads) {
    if (scheduler.next_block >= scheduler.order.size()) return false;
    const uint64_t i = scheduler.order[scheduler.next_block++];
    block->index = dim3(unsigned(i % grid.x), unsigned(i / grid.x));
    block->left = threads;
    block->shared.clear();
    // Kept for the next block: what threads have read must not be given back unordered with them.
    if (block->barrier == nullptr) block->barrier = std::make_unique<Meeting>(kMostThreads);
    while (block->warps.size() < threads / kWarp)
        block->warps.push_back(std::make_unique<Meeting>(kWarp));
    while (block->threads.size() < threads) block->threads.push_back(std::make_unique<Thread>());
    for (unsigned t = 0; t < threads; ++t) {
        Thread* thread = block->threads[t].get();
        thread->block = block;
        thread->index = t;
        prepare(thread);
        make_ready(thread);
    }
    return true;
}

void run_one() {
    auto& ready = scheduler.ready;
    std::swap(ready[draw() % ready.size()], ready.back());
    Thread* thread = scheduler.current = ready.back();
    ready.pop_back();
    threadIdx = dim3(thread->index, 0, 0);
    blockIdx = thread->block->index;
    switch_fiber(&scheduler.main, thread);
    while (scheduler.wanted != nullptr) {
        give_shared_memory();
        switch_fiber(&scheduler.main, thread);
    }
}

// Returns once `expected` threads are there; the round that they met in.
unsigned meet(Meeting& meeting, unsigned expected, int line, const char* what) {
    if (!meeting.waiting.empty() && meeting.line != line)
        fail(std::string("threads meet at different places: ") + what + " of line " +
                 std::to_string(meeting.line),
             line);
    const unsigned round = meeting.round;
    meeting.line = line;
    if (meeting.waiting.size() + 1 < expected) {
        meeting.waiting.push_back(scheduler.current);
        give_way();
        return round;
    }
    ++meeting.round;
    for (Thread* thread : meeting.waiting) make_ready(thread);
    meeting.waiting.clear();
    return round;
}

Meeting& my_warp(unsigned mask, int line) {
    if (mask != 0xffffffffu) fail("only whole warps can meet here", line);
    return *scheduler.current->block->warps[scheduler.current->index / kWarp];
}

}  // namespace

void barrier(int line) {
    Meeting& all = *scheduler.current->block->barrier;
    release(&all.order);
    meet(all, unsigned(blockDim.x), line, "__syncthreads");
    scheduler.idle = 0;
    acquire(&all.order);
}

const uint64_t* exchange(unsigned mask, uint64_t value, int line) {
    Meeting& warp = my_warp(mask, line);
    warp.values[warp.round % 2][scheduler.current->index % kWarp] = value;
    return warp.values[meet(warp, kWarp, line, "a warp's operation") % 2];
}

void warp_barrier(unsigned mask, int line) {
    Meeting& warp = my_warp(mask, line);
    release(&warp.order);
    meet(warp, kWarp, line, "__syncwarp");
    acquire(&warp.order);
}

void maybe_pause() {
    if (draw() % 100 >= scheduler.pause_percent) return;
    if (++scheduler.idle > kPatience) fail("threads wait for what never comes", 0);
    make_ready(scheduler.current);
    give_way();
}

void* shared(const void* key, size_t bytes, size_t alignment) {
    Block* block = scheduler.current->block;
    if (block->shared.find(key) == block->shared.end()) {
        scheduler.wanted = key;
        scheduler.wanted_bytes = bytes;
        scheduler.wanted_alignment = std::max<size_t>(alignment, 16);
        give_way();
    }
    acquire(&block->order);
    return block->shared.find(key)->second;
}

void launch(dim3 grid, unsigned threads, void (*body)(const void*), const void* args) {
    if (threads == 0 || threads % kWarp != 0 || threads > kMostThreads || grid.x == 0 ||
        grid.y == 0 || grid.y > 65535)
        throw std::runtime_error("simt: a launch that CUDA would refuse");
    scheduler.body = body;
    scheduler.args = args;
    scheduler.next_block = scheduler.idle = 0;
    scheduler.order.resize(uint64_t(grid.x) * grid.y);
    std::iota(scheduler.order.begin(), scheduler.order.end(), uint64_t(0));
    for (uint64_t i = scheduler.order.size(); i > 1; --i)
        std::swap(scheduler.order[i - 1], scheduler.order[draw() % i]);
    scheduler.ready.clear();
    scheduler.ready.reserve(size_t(scheduler.resident) * threads);
    scheduler.error.clear();
    blockDim = dim3(threads);
    gridDim = grid;
    if (__tsan_get_current_fiber) scheduler.main.tsan = __tsan_get_current_fiber();
    if (__sanitizer_start_switch_fiber) {
        pthread_attr_t attributes;
        void* bottom = nullptr;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &bottom, &scheduler.main.stack_size);
        pthread_attr_destroy(&attributes);
        scheduler.main.stack = static_cast<char*>(bottom);
    }
    release(&scheduler.began);
    while (scheduler.blocks.size() < scheduler.resident)
        scheduler.blocks.push_back(std::make_unique<Block>());
    std::vector<Block*> running;
    for (unsigned i = 0; i < scheduler.resident; ++i)
        if (start_block(scheduler.blocks[i].get(), grid, threads))
            running.push_back(scheduler.blocks[i].get());
    while (!running.empty() && scheduler.error.empty()) {
        if (scheduler.ready.empty()) {
            scheduler.error = "every thread waits for another one";
            break;
        }
        run_one();
        Block* block = scheduler.current->block;
        if (block->left == 0 && !start_block(block, grid, threads))
            running.erase(std::find(running.begin(), running.end(), block));
    }
    acquire(&scheduler.ended);
    for (void* memory : scheduler.memory) free(memory);
    scheduler.memory.clear();
    if (!scheduler.error.empty()) scheduler.blocks.clear();  // threads are left where they stood
    if (!scheduler.error.empty()) throw std::runtime_error("simt: " + scheduler.error);
}

}  // namespace simt

// The order of the launches from now on, and how many blocks run at a time.
extern "C" __attribute__((visibility("default"))) void simt_schedule(uint64_t seed,
                                                                     unsigned resident) {
    simt::scheduler.random = seed * 0x9e3779b97f4a7c15ull | 1;
    simt::scheduler.resident = resident;
}
