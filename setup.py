"""Build script: what pyproject.toml cannot say.

`kernels/` stands at the top of the tree beside `csrc/`, yet is installed and imported only as
`albert_act_fast.kernels`: the top-level name `kernels` belongs to Hugging Face's package.

The C++ operators are built where a C++ compiler and PyTorch are found, and left out, saying so,
where not. Whether there is a GPU plays no part. ALBERT_ACT_FAST_SKIP_CPP=1 leaves them out;
ALBERT_ACT_FAST_SANITIZE=1 builds them to be run under AddressSanitizer and UBSan (make sanitize).
"""

import glob
import os
import platform
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup

# The oldest torch that is supported: one build serves it and all later ones.
OLDEST_TORCH = "2.11"
TORCH_TARGET_VERSION = "0x020b000000000000"


def say(message):
    print(f"albert_act_fast: {message}", file=sys.stderr)


def is_set(variable):
    return os.environ.get(variable, "0") not in ("", "0")


def why_no_cpp():
    """The reason to leave the C++ operators out, or None."""
    if is_set("ALBERT_ACT_FAST_SKIP_CPP"):
        return "ALBERT_ACT_FAST_SKIP_CPP is set"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler: {compiler} is not on the PATH (CXX names another)"
    if sys.platform == "win32":
        return "not supported on Windows"
    try:
        import torch  # noqa: F401
    except ImportError:
        return "PyTorch is not visible to the build (pip install --no-build-isolation .)"
    try:
        import pybind11  # noqa: F401
    except ImportError:
        return "pybind11 is not visible to the build (pip install pybind11)"
    return None


def compiler_version():
    compiler = os.environ.get("CXX", "c++").split()
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True)
    return version.stdout.splitlines()[0].replace('"', "")


def native_extensions():
    """Arguments for `setup` that build the C++ operators."""
    reason = why_no_cpp()
    if reason is not None:
        say(f"the C++ operators are left out: {reason}")
        return {}
    import pybind11
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

    x86 = platform.machine().lower() in ("x86_64", "amd64")
    instruction_sets = ["portable", *(["avx2", "avx512", "avx512_vnni"] if x86 else [])]
    say(f"the C++ operators are built for {', '.join(instruction_sets)}")
    sanitize = []
    if is_set("ALBERT_ACT_FAST_SANITIZE"):
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        sanitize += ["-fno-omit-frame-pointer", "-O1"]
    extension = Extension(
        "albert_act_fast._cpp_ops",
        sources=[
            "csrc/binding/checksum.cpp",
            "csrc/binding/cpu_ops.cpp",
            "csrc/binding/engine.cpp",
            "csrc/binding/linear.cpp",
            "csrc/binding/module.cpp",
            "csrc/cpu/dispatch.cpp",
            *(f"csrc/cpu/{name}.cpp" for name in instruction_sets),
        ],
        depends=glob.glob("csrc/**/*.h", recursive=True),
        include_dirs=[pybind11.get_include(), *include_paths()],
        library_dirs=library_paths(),
        libraries=["c10", "torch_cpu", "torch"],
        # Never -march=native: the instruction set is chosen when the library is loaded.
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-fopenmp-simd",
            "-fvisibility=hidden",
            "-Wall",
            "-Wno-psabi",
            f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
            f'-DAAF_OLDEST_TORCH="{OLDEST_TORCH}"',
            f'-DAAF_COMPILER="{compiler_version()}"',
            *sanitize,
        ],
        extra_link_args=[
            *(["-Wl,--no-as-needed"] if sys.platform == "linux" else []),
            *sanitize,
        ],
        language="c++",
    )
    # One build serves several releases of torch, but one of Python: pybind11 knows no stable ABI.
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(
    packages=[
        *find_packages(include=["albert_act_fast", "albert_act_fast.*"]),
        # Named by hand: it has no __init__.py (see kernels/README.md), so nothing finds it.
        "albert_act_fast.kernels",
    ],
    package_dir={"albert_act_fast.kernels": "kernels"},
    package_data={
        "albert_act_fast": ["py.typed", "data/**/*"],
        "albert_act_fast.kernels": ["*.md"],
    },
    # The wheel holds what is listed above and nothing else, whatever lies in the tree.
    include_package_data=False,
    **native_extensions(),
)
