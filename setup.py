"""Build script: what pyproject.toml cannot say.

`kernels/` stands at the top of the tree beside `csrc/`, yet is installed and imported only as
`albert_act_fast.kernels`: the top-level name `kernels` belongs to Hugging Face's package.

The C++ operators are built where a C++ compiler and PyTorch are found, and left out, saying so,
where not. Whether there is a GPU plays no part. ALBERT_ACT_FAST_SKIP_CPP=1 leaves them out;
ALBERT_ACT_FAST_SANITIZE=1 builds them to be run under AddressSanitizer and UBSan (make sanitize).

The CUDA operators are part of the same library, built where nvcc is found too.
ALBERT_ACT_FAST_SKIP_CUDA=1 leaves them out; ALBERT_ACT_FAST_FORCE_CUDA=1 makes it an error that
they cannot be built; ALBERT_ACT_FAST_CUDA_ARCHITECTURES="80;90" names the GPUs to build for.
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
# Those of them that nvcc knows; the newest also as PTX, for what comes after.
CUDA_ARCHITECTURES = "80;90;100"


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


def find_nvcc():
    """Path of nvcc, or None."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            return shutil.which("nvcc", path=os.path.join(os.environ[variable], "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def why_no_cuda():
    """The reason to leave the CUDA operators out, or None."""
    if is_set("ALBERT_ACT_FAST_SKIP_CUDA"):
        return "ALBERT_ACT_FAST_SKIP_CUDA is set"
    if find_nvcc() is None:
        return "no nvcc on the PATH (CUDA_HOME names another place)"
    if sys.platform != "linux":
        return "supported on Linux only"
    return None


def cuda_build():
    """The nvcc command without sources and output, and what it builds for, in words."""
    nvcc = find_nvcc()

    def ask(*arguments):
        return subprocess.run(
            [nvcc, *arguments], capture_output=True, text=True, check=True
        ).stdout.split()

    known = {code.removeprefix("sm_") for code in ask("--list-gpu-code")}
    wanted = os.environ.get("ALBERT_ACT_FAST_CUDA_ARCHITECTURES")
    chosen = [a for a in (wanted or CUDA_ARCHITECTURES).split(";") if wanted or a in known]
    if not chosen or not known.issuperset(chosen):
        raise SystemExit(
            f"ALBERT_ACT_FAST_CUDA_ARCHITECTURES: got {wanted!r}, expected some of "
            f"{';'.join(sorted(known, key=int))}, which {nvcc} knows, with ; between them."
        )
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in chosen]
    newest = max(chosen, key=int)
    targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    command = [nvcc, "-std=c++17", "-O3", "-Werror=all-warnings", "-Xcompiler=-fPIC"]
    command += ["-Xcompiler=-fvisibility=hidden", "--threads=0", "-cudart=static", *targets]
    version = ask("--version")
    release = version[version.index("release") + 1].rstrip(",")
    return command, f"CUDA {release} for sm_{', sm_'.join(chosen)} and PTX for newer ones"


def cuda_runtime_folder():
    """Where the static CUDA runtime lies; toolkits and wheels call the folder differently."""
    # nvcc itself says where its toolkit is: what is on the PATH may be a script.
    plan = subprocess.run([find_nvcc(), "--dryrun", "x.cu"], capture_output=True, text=True)
    (top,) = [line for line in plan.stderr.splitlines() if line.startswith("#$ TOP=")]
    root = os.path.realpath(top.removeprefix("#$ TOP="))
    for name in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if os.path.exists(os.path.join(root, name, "libcudart_static.a")):
            return os.path.join(root, name)
    raise SystemExit(f"the CUDA toolkit in {root} has no libcudart_static.a.")


def without_cuda(reason):
    """Says so, or ends the build where the CUDA operators must not be missing."""
    if is_set("ALBERT_ACT_FAST_FORCE_CUDA"):
        raise SystemExit(f"ALBERT_ACT_FAST_FORCE_CUDA is set, but: {reason}.")
    say(f"the CUDA operators are left out: {reason}")


def add_cuda(extension):
    """Adds the CUDA operators to the extension; the command that compiles their kernels, or None.

    PyTorch's own way of building CUDA files refuses to where PyTorch itself has no CUDA.
    """
    reason = why_no_cuda()
    if reason is not None:
        without_cuda(reason)
        return None
    command, description = cuda_build()
    say(f"the CUDA operators are built with {description}")
    extension.sources.append("csrc/binding/cuda_ops.cpp")
    extension.extra_compile_args.append(f'-DAAF_CUDA="{description}"')
    extension.library_dirs.append(cuda_runtime_folder())
    extension.libraries += ["cudart_static", "dl", "pthread", "rt"]
    return command


def native_extensions():
    """Arguments for `setup` that build the C++ operators."""
    reason = why_no_cpp()
    if reason is not None:
        say(f"the C++ operators are left out: {reason}")
        without_cuda("they are part of the same library as the C++ operators")
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
        depends=glob.glob("csrc/**/*.*", recursive=True),
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
    nvcc_command = add_cuda(extension)

    class BuildNative(BuildExtension):
        def build_extensions(self):
            if nvcc_command is not None:
                os.makedirs(self.build_temp, exist_ok=True)
                kernels = os.path.join(self.build_temp, "cuda_kernels.o")
                subprocess.run(
                    [*nvcc_command, "-c", "csrc/cuda/kernels.cu", "-o", kernels], check=True
                )
                extension.extra_objects.append(kernels)
            super().build_extensions()

    # One build serves several releases of torch, but one of Python: pybind11 knows no stable ABI.
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildNative}}


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
