"""Triton's interpreter (TRITON_INTERPRET=1), made strict enough to be believed.

As it comes, the interpreter computes bfloat16 on raw bit patterns, reads and writes any address and
runs the programs of a launch one after the other in a fixed order. `install` changes that, for the
whole process:

- bfloat16 and float16 may be loaded, stored, cast and multiplied by `tl.dot` (products and sums in
  float32) and nothing else: our kernels upcast on load. Casts round to the nearest, ties to even;
- every address that is read or written must be an element of a tensor argument: not merely
  inside its memory, so that the gaps of a slice of a wider tensor count as outside;
- lanes masked off without `other` hold NaN, or the largest integer;
- two lanes of a store that write different values to one address are an error;
- so are two programs that touch one address, one of them writing, unless an atomic operation
  orders them (a program's accesses before its atomic come before those that another program makes
  after a later atomic on the same address);
- an atomic operation orders programs only where `tl.debug_barrier()` stands between it and the
  program's other accesses, before and after: a program is many threads, and one of them does it.
  Triton may put a barrier there of its own accord, and may cease to;
- a relaxed one orders nothing, and needs none;
- an atomic operation of scope "cta", which orders nothing between programs, is an error;
- so is an access before the program has waited for the kernel before (`PDL`), where the kernel
  does; but weights may be loaded ahead of that (`loaded_ahead` tells which elements were);
- so is a row's offset of 32 bits: an index times a row stride (an argument called `*_stride`) is to
  be computed in 64 (`SMALL` names the exception);
- programs run in random order, another one in every launch.

What it cannot see: registers, shared memory, barriers between accesses of one program, speed.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

from albert_act_fast.kernels import dependent_launch, launch_tables
from support.interpreter_arithmetic import KernelError, make_arithmetic_strict
from support.interpreter_speed import make_interpreter_fast

# Strides of what the launchers refuse to take of 2**31 elements or more.
SMALL = {"weight_stride"}
# What the kernels launched so far were called, in order: (name, grid).
launches: list[tuple[str, tuple[int, ...]]] = []
# How many elements the last launch loaded, by the argument they are of.
loaded: Counter[str] = Counter()
# How often it loaded each element before it waited, by the argument and the element's address.
loaded_ahead: defaultdict[str, Counter[int]] = defaultdict(Counter)
# What no kernel of ours writes.
WEIGHTS = {"weight", "query_weight", "key_weight", "value_weight"}


class Memory:
    """One tensor's storage during a launch: which elements the arguments have, who touched them.

    Tables hold, for each element, the last program (-1: none) and in which phase of it; a
    program's phase is the number of atomic operations it has done.
    """

    def __init__(self, tensor: torch.Tensor, name: str):
        self.name, self.itemsize = name, tensor.element_size()
        self.start = tensor.untyped_storage().data_ptr()
        self.length = tensor.untyped_storage().nbytes() // self.itemsize
        self.is_element = np.zeros(self.length, bool)
        self.tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, tensor: torch.Tensor, name: str) -> None:
        if tensor.element_size() != self.itemsize:
            raise KernelError(f"{name} and {self.name} share memory with different item sizes")
        flags = torch.from_numpy(self.is_element)
        flags.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)

    def table(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        if kind not in self.tables:
            empty = np.full(self.length, -1, np.int32)
            self.tables[kind] = (empty, empty.copy())
        return self.tables[kind]


class Launch:
    """The memory a launch may touch, and the order among its programs."""

    def __init__(self):
        self.memories: dict[int, Memory] = {}
        self.dependent = False
        # program -> its phase; program -> {other program: phase from which it knows nothing};
        # address of an atomic -> [(program, phase) of those that came there].
        self.phase: defaultdict[int, int] = defaultdict(int)
        self.knows: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.released: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.start_program(0, (0, 0, 0))

    def start_program(self, program: int, coordinates: tuple[int, ...]) -> None:
        self.program, self.coordinates = program, coordinates
        # Since the program's last barrier: memory was accessed, an atomic operation was done.
        self.accessed = self.ordered = self.waited = False

    def add(self, name: str, value) -> None:
        if name == "PDL":
            self.dependent = value
        if isinstance(value, TensorDescriptor):  # what it loads is checked as any load is
            value = value.base
        if isinstance(value, torch.Tensor) and value.numel():
            key = value.untyped_storage().data_ptr()
            self.memories.setdefault(key, Memory(value, name)).add(value, name)

    def locate(self, pointers: TensorHandle, mask: TensorHandle, what: str):
        """(memory, element index) of every lane that the mask lets through; None if none."""
        early = self.dependent and not self.waited
        if early and what != "load":  # masked off or not
            raise KernelError(f"{what} before the program has waited for the kernel before")
        addresses = np.ravel(pointers.data).astype(np.uint64)
        lanes = np.ravel(np.broadcast_to(mask.data, pointers.data.shape)).astype(bool)
        addresses = addresses[lanes]
        if not addresses.size:
            return None
        low, high = int(addresses.min()), int(addresses.max())
        for memory in self.memories.values():
            end = memory.start + memory.length * memory.itemsize
            if memory.start <= low < end:
                break
        else:
            raise KernelError(f"{what} outside every argument by program {self.coordinates}")
        offsets = (addresses - np.uint64(memory.start)).astype(np.int64)
        index, rest = np.divmod(offsets, memory.itemsize)
        if high >= end or rest.any() or not memory.is_element[index].all():
            bad = index[(index >= memory.length) | (rest != 0)]
            if not bad.size:
                bad = index[~memory.is_element[index]]
            raise KernelError(
                f"{what} of what is no element of {memory.name}: place {bad[0]} of its "
                f"{memory.length}, by program {self.coordinates}"
            )
        if early:
            if memory.name not in WEIGHTS:
                raise KernelError(
                    f"load of {memory.name} before the program has waited for the kernel before"
                )
            loaded_ahead[memory.name].update((memory.start + index * memory.itemsize).tolist())
        return memory, index, lanes

    def touch(self, kind: str, memory: Memory, index: np.ndarray, conflicts_with: str) -> None:
        """Notes an access, and raises where another program's is not ordered before it."""
        if kind != "updated":
            if self.ordered:
                raise KernelError("no tl.debug_barrier between an atomic operation and this access")
            self.accessed = True
        for other in conflicts_with.split():
            programs, phases = memory.table(other)
            suspects = np.unique(programs[index])
            for program in suspects[(suspects >= 0) & (suspects != self.program)].tolist():
                known = self.knows[self.program].get(program, 0)
                theirs = programs[index] == program
                if (phases[index][theirs] >= known).any():
                    place = index[theirs][0]
                    raise KernelError(
                        f"race: {memory.name}, place {place}: {kind} by program "
                        f"{self.program}, {other} by program {program}"
                    )
        programs, phases = memory.table(kind)
        programs[index], phases[index] = self.program, self.phase[self.program]

    def synchronise(self, address: int) -> None:
        """An atomic operation: learn from those who were here before, tell those who come."""
        if self.accessed:
            raise KernelError("no tl.debug_barrier between an access and this atomic operation")
        self.ordered = True
        for program, phase in self.released[address].items():
            known = self.knows[self.program]
            known[program] = max(known.get(program, 0), phase)
        self.phase[self.program] += 1
        self.released[address] |= self.knows[self.program]
        self.released[address][self.program] = self.phase[self.program]


_current = Launch()
_seeds = itertools.count()


def install() -> None:
    """Once in a process; before or after the kernels are imported."""
    if not getattr(install, "done", False):
        install.done = True
        make_arithmetic_strict()
        _make_memory_strict()
        _make_offsets_strict()
        _make_kernels_wait()
        _shuffle_programs()
        make_interpreter_fast()


def _poison(pointers: TensorHandle) -> TensorHandle:
    dtype = pointers.get_element_ty()
    numpy_dtype = interpreter._get_np_dtype(dtype)
    if dtype == tl.bfloat16:
        value = 0x7FC0
    elif numpy_dtype.kind == "f":
        value = np.nan
    else:
        value = True if numpy_dtype.kind == "b" else np.iinfo(numpy_dtype).max
    return TensorHandle(np.full(pointers.data.shape, value, numpy_dtype), dtype)


def _make_memory_strict() -> None:
    builder = InterpreterBuilder
    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store
    atomic_rmw = builder.create_atomic_rmw

    def create_masked_load(self, pointers, mask, other, cache_policy, is_volatile):
        place = _current.locate(pointers, mask, "load")
        if place is not None:
            memory, index, _ = place
            loaded[memory.name] += index.size
            _current.touch("loaded", memory, index, conflicts_with="stored updated")
        if other is None:
            other = _poison(pointers)
        return masked_load(self, pointers, mask, other, cache_policy, is_volatile)

    def create_masked_store(self, pointers, value, mask, cache_policy):
        place = _current.locate(pointers, mask, "store")
        if place is not None:
            memory, index, lanes = place
            _one_value_each(memory, index, np.broadcast_to(value.data, pointers.data.shape), lanes)
            _current.touch("stored", memory, index, conflicts_with="stored loaded updated")
        return masked_store(self, pointers, value, mask, cache_policy)

    def create_atomic_rmw(self, operation, pointers, value, mask, sem, scope):
        if scope == interpreter._ir.MEM_SYNC_SCOPE.CTA:
            raise KernelError('an atomic operation of scope "cta" orders nothing between programs')
        place = _current.locate(pointers, mask, "atomic operation")
        if place is not None:
            memory, index, _ = place
            _current.touch("updated", memory, index, conflicts_with="stored loaded")
            if sem == interpreter._ir.MEM_SEMANTIC.ACQUIRE_RELEASE:
                for element in index.tolist():
                    _current.synchronise(memory.start + element * memory.itemsize)
        return atomic_rmw(self, operation, pointers, value, mask, sem, scope)

    def create_barrier(self):
        _current.accessed = _current.ordered = False

    def not_checked(self, *arguments):
        raise KernelError("this operation is not checked: extend tests/support/triton_interpreter")

    for function in (create_masked_load, create_masked_store, create_atomic_rmw, create_barrier):
        setattr(builder, function.__name__, function)
    builder.create_atomic_cas = not_checked
    builder.create_atomic_load = builder.create_atomic_store = not_checked
    builder.create_atomic_poll = not_checked


def _make_kernels_wait() -> None:
    """As they do on GPUs that have dependent launches."""

    def gdc_wait():
        _current.waited = True

    def gdc_launch_dependents():
        if not _current.waited:
            raise KernelError("the next kernel is let in before this one has waited")

    launch_tables.dependent_launch = lambda architecture: True
    launch_tables.multiplies_where_it_lies = lambda architecture: True
    dependent_launch.gdc_wait = gdc_wait
    dependent_launch.gdc_launch_dependents = gdc_launch_dependents


class _Stride(int):
    """The distance between rows, as an argument of a kernel."""


def _make_offsets_strict() -> None:
    """Strides are marked where a kernel gets them; a scalar's copies in a block are marked too. One
    that was converted to 64 bits is a new value without the mark."""
    start, convert = GridExecutor._init_args_hst, interpreter._implicit_cvt
    splat, binary = InterpreterBuilder.create_splat, InterpreterBuilder.binary_op

    def _init_args_hst(self, arguments, keywords):
        arguments, keywords = start(self, arguments, keywords)

        def marked(name, value):
            is_stride = name.endswith("_stride") and name not in SMALL and type(value) is int
            return _Stride(value) if is_stride else value

        arguments = [marked(*pair) for pair in zip(self.arg_names, arguments, strict=False)]
        return arguments, {name: marked(name, value) for name, value in keywords.items()}

    def _implicit_cvt(argument):
        if not isinstance(argument, _Stride):
            return convert(argument)
        converted = convert(int(argument))
        converted.handle.attr["stride"] = True
        return converted

    def create_splat(self, block_type, argument):
        result = splat(self, block_type, argument)
        result.attr |= {"stride": True} if "stride" in argument.attr else {}
        return result

    def binary_op(self, left, right, op):
        result = binary(self, left, right, op)
        if op is np.multiply and "stride" in left.attr | right.attr and result.data.itemsize < 8:
            raise KernelError("a row's offset of 32 bits: convert the row to int64 first")
        return result

    GridExecutor._init_args_hst = _init_args_hst
    interpreter._implicit_cvt = _implicit_cvt
    InterpreterBuilder.create_splat = create_splat
    InterpreterBuilder.binary_op = binary_op


def _one_value_each(memory: Memory, index: np.ndarray, values: np.ndarray, lanes) -> None:
    order = np.argsort(index, kind="stable")
    index, values = index[order], np.ravel(values)[lanes][order]
    twice = (index[1:] == index[:-1]) & (values[1:] != values[:-1])
    if twice.any():
        raise KernelError(
            f"two lanes of program {_current.coordinates} store different values to "
            f"{memory.name}, place {index[1:][twice][0]}"
        )


def _shuffle_programs() -> None:
    start, set_grid_idx = GridExecutor._init_args_hst, InterpreterBuilder.set_grid_idx
    call = GridExecutor.__call__
    order: dict[str, np.ndarray | None] = {"now": None}

    def _init_args_hst(self, arguments, keywords):
        arguments, keywords = start(self, arguments, keywords)
        _current.__init__()
        loaded.clear()
        loaded_ahead.clear()
        for name, value in [*zip(self.arg_names, arguments, strict=False), *keywords.items()]:
            _current.add(name, value)
        order["now"] = None
        return arguments, keywords

    def set_grid(self, x, y, z):
        grid = self.grid_dim
        if order["now"] is None:
            order["now"] = np.random.default_rng(next(_seeds)).permutation(int(np.prod(grid)))
            launches[-1] = (launches[-1][0], grid)
        place = int(order["now"][(x * grid[1] + y) * grid[2] + z])
        _current.start_program(place, tuple(int(i) for i in np.unravel_index(place, grid)))
        return set_grid_idx(self, *_current.coordinates)

    def counted_call(self, *arguments, **keywords):
        launches.append((self.fn.__name__, ()))
        return call(self, *arguments, **keywords)

    GridExecutor._init_args_hst = _init_args_hst
    GridExecutor.__call__ = counted_call
    InterpreterBuilder.set_grid_idx = set_grid
