"""Runs the native engine by torch's C interface, without its Python packages.

    python check_library.py _cpp_ops.abi3.so libtorch_cpu.so SCHEMAS

So one build of the operators can be shown to run under any Python: torch's own library is the same
for all of them. Needs nothing but Python. Prints as JSON what the library says of itself, what the
engine computes of numbers that test_abi3.py has as well, and whether it can be interrupted.
"""

import ctypes
import importlib.machinery
import importlib.util
import json
import signal
import struct
import sys

WIDTH, TOKENS, HEADS = 8, 5, 2
# Rows of each pair's weight; None where it is a vector.
PAIRS = dict.fromkeys(("query", "key", "value", "dense", "ffn", "ffn_output"), WIDTH)
PAIRS |= {"attention_norm": None, "output_norm": None, "halting": 1}


def numbers(count: int, first: int) -> list[float]:
    """Between -0.5 and 0.5, without a pattern that matters."""
    return [(first + i) * 37 % 101 / 101 - 0.5 for i in range(count)]


class Torch:
    """Calls operators with Python's own values, tensors being ctypes arrays with a shape."""

    def __init__(self, path: str):
        self.library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        self.memory = []

    def call(self, name: str, *arguments) -> None:
        if getattr(self.library, name)(*arguments) != 0:
            raise RuntimeError(f"{name} failed")

    def new(self, name: str, *arguments) -> int:
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle.value

    def define(self, schemas: dict[str, str]) -> None:
        library = self.new("aoti_torch_library_init_fragment", b"albert_act_fast", b"", 0)
        for name, schema in schemas.items():
            text = f"{name}{schema}".encode()
            self.call("aoti_torch_library_def", ctypes.c_void_p(library), text)

    def tensor(self, array, *shape: int) -> int:
        self.memory.append(array)
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        strides = (ctypes.c_int64 * len(shape))(*shape[1:], 1)
        kind = "float32" if array._type_ is ctypes.c_float else "int64"
        dtype = getattr(self.library, f"aoti_torch_dtype_{kind}")()
        sized = array, ctypes.c_int64(len(shape)), sizes, strides, ctypes.c_int64(0)
        return self.new("aoti_torch_create_tensor_from_blob", *sized, dtype, 0, 0)

    def text(self, value: bytes) -> int:
        return self.new("torch_new_string_handle", value, ctypes.c_size_t(len(value)))

    def sequence(self, handles: list[int]) -> int:
        new = self.new("torch_new_list_reserve_size", ctypes.c_size_t(len(handles)))
        for handle in handles:
            self.call("torch_list_push_back", ctypes.c_void_p(new), ctypes.c_uint64(handle))
        return new

    def items(self, handle: int) -> list[int]:
        size, item, found = ctypes.c_size_t(), ctypes.c_int64(), []
        self.call("torch_list_size", ctypes.c_void_p(handle), ctypes.byref(size))
        for i in range(size.value):
            place = ctypes.c_size_t(i)
            self.call("torch_list_get_item", ctypes.c_void_p(handle), place, ctypes.byref(item))
            found.append(item.value)
        return found

    def operator(self, name: str, *arguments) -> int:
        values = [
            struct.unpack("<Q", struct.pack("<d", a))[0] if isinstance(a, float) else int(a)
            for a in arguments
        ]
        stack = (ctypes.c_uint64 * len(values))(*values)
        self.call("aoti_torch_call_dispatcher", f"albert_act_fast::{name}".encode(), b"", stack)
        return stack[0]


def floats(values: list[float]):
    return (ctypes.c_float * len(values))(*values)


def engine(torch: Torch, halting_bias: float) -> int:
    weights = []
    for i, (name, rows) in enumerate(PAIRS.items()):
        shape = (WIDTH,) if rows is None else (rows, WIDTH)
        count = (rows or 1) * WIDTH
        weights.append(torch.tensor(floats(numbers(count, 7 * i)), *shape))
        bias = [halting_bias] if name == "halting" else numbers(rows or WIDTH, 11 * i)
        weights.append(torch.tensor(floats(bias), len(bias)))
    none = 0
    return torch.operator("engine_create", torch.sequence(weights), torch.sequence([]), none, False,
                          HEADS, torch.text(b"gelu"), 1e-12, 1e-12, False, False)  # fmt: skip


def run(torch: Torch, handle: int, max_iterations: int) -> tuple[list[int], list[float]]:
    """The rows of each iteration, and the states [TOKENS, WIDTH] in one list."""
    out, state = floats([0] * TOKENS * WIDTH), [floats([0] * TOKENS) for _ in range(2)]
    rows = torch.operator(
        "engine_run", handle,
        torch.tensor(floats(numbers(TOKENS * WIDTH, 3)), TOKENS, WIDTH),
        torch.tensor((ctypes.c_int64 * 2)(0, TOKENS), 2),
        torch.tensor((ctypes.c_int64 * TOKENS)(*range(TOKENS)), TOKENS),
        0.99, max_iterations, True,
        torch.tensor(out, TOKENS, WIDTH),
        *(torch.tensor(each, TOKENS) for each in state),
    )  # fmt: skip
    return torch.items(rows), list(out)


def interrupted(torch: Torch, module) -> bool:
    """Whether a run that would not end in a lifetime ends by what a signal handler raises."""
    never_halting = engine(torch, -200.0)
    signal.signal(signal.SIGPROF, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_PROF, 0.1)
    if run(torch, never_halting, 2**62)[0] != [-1]:
        return False
    try:
        module.raise_interruption()
    except KeyboardInterrupt:
        return module.raise_interruption() is None
    return False


def main(library: str, path: str, schemas: str) -> None:
    torch = Torch(path)
    loader = importlib.machinery.ExtensionFileLoader("_cpp_ops", library)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cpp_ops", loader))
    loader.exec_module(module)
    torch.define(json.loads(schemas))
    rows, out = run(torch, engine(torch, -1.0), 6)
    found = {
        "python": list(sys.version_info[:2]),
        "build_info": module.build_info(),
        "rows": rows,
        "out": out,
        "interrupted": interrupted(torch, module),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
