"""Build script: what pyproject.toml cannot say.

`kernels/` stands at the top of the tree beside `csrc/`, yet is installed and imported only as
`albert_act_fast.kernels`: the top-level name `kernels` belongs to Hugging Face's package.

The C++ operators are built unless ALBERT_ACT_FAST_SKIP_CPP=1 leaves them out; where a tool for that
is missing, the build ends with one line that names it, before anything is downloaded or compiled.
Building needs no torch (see third_party/torch/README.md). Whether there is a GPU plays no part.
ALBERT_ACT_FAST_SANITIZE=1 builds them to be run under AddressSanitizer and UBSan (make sanitize);
MAX_JOBS is how many files are compiled at once, by default as many as there are processors.

The CUDA operators are part of the same library, built where nvcc is found too.
ALBERT_ACT_FAST_SKIP_CUDA=1 leaves them out; ALBERT_ACT_FAST_FORCE_CUDA=1 makes it an error that
they cannot be built; ALBERT_ACT_FAST_CUDA_ARCHITECTURES="80;90" names the GPUs to build for.
"""

import glob
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# The oldest Python and torch that are supported: one build serves them and all later ones.
OLDEST_PYTHON = "cp310"
PY_LIMITED_API = "0x030a0000"
OLDEST_TORCH = "2.11"
TORCH_TARGET_VERSION = "0x020b000000000000"
# Those of them that nvcc knows; the newest also as PTX, for what comes after.
CUDA_ARCHITECTURES = "80;90;100"


def say(message):
    print(f"albert_act_fast: {message}", file=sys.stderr)


def is_set(variable):
    return os.environ.get(variable, "0") not in ("", "0")


def compiler():
    """The C++ compiler's command."""
    return os.environ.get("CXX", "c++").split()


def skips_cpp():
    """The reason to leave the C++ operators out, or None."""
    if is_set("ALBERT_ACT_FAST_SKIP_CPP"):
        return "ALBERT_ACT_FAST_SKIP_CPP is set"
    return "not supported on Windows" if sys.platform == "win32" else None


def missing_tool():
    """What the C++ operators cannot be built without, and how to get it; or None."""
    if shutil.which(compiler()[0]) is None:
        return (
            f"no C++ compiler: {compiler()[0]} is not on the PATH; install g++ or clang++ "
            "(Debian: apt-get install g++), or name one by CXX"
        )
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        return (
            f"no Python headers: there is no {header}; install them (Debian: apt-get install "
            "python3-dev)"
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "free-threaded Python has no limited API; use a Python that has the GIL"
    try:
        import pybind11  # noqa: F401
    except ImportError:
        return (
            "pybind11 is not installed: pip install 'pybind11>=2.13', or leave out "
            "--no-build-isolation"
        )
    return None


def compiler_version():
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
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
    """Adds the CUDA operators to the extension; returns how their kernels are compiled, or None."""
    reason = why_no_cuda()
    if reason is not None:
        without_cuda(reason)
        return None
    command, description = cuda_build()
    say(f"the CUDA operators are built with {description}")
    extension.sources += [source for source in cpp_sources() if is_cuda(source)]
    extension.extra_compile_args.append(f'-DAAF_CUDA="{description}"')
    extension.library_dirs.append(cuda_runtime_folder())
    extension.libraries += ["cudart_static", "dl", "pthread", "rt"]
    return command


def cpp_sources():
    return sorted(glob.glob("csrc/**/*.cpp", recursive=True))


def is_cuda(source):
    return "cuda" in os.path.relpath(source, "csrc")


def instruction_set(source):
    """Whose copy of the kernels a source is ("avx2", ...), or None."""
    folder, name = os.path.split(source)
    name = os.path.splitext(name)[0]
    return name if folder.endswith("cpu") and name.startswith(("portable", "avx", "amx")) else None


def stand_in_for_torch(folder):
    """A library without content by the name of torch's, for the linker: the operators take their
    symbols from the one that Python has loaded when it loads them."""
    os.makedirs(folder, exist_ok=True)
    library = os.path.join(folder, "libtorch_cpu.so")
    empty = ["-shared", "-nostdlib", "-Wl,-soname,libtorch_cpu.so", "-x", "c++", os.devnull]
    subprocess.run([*compiler(), *empty, "-o", library], check=True)
    return library


def native_extensions():
    """Arguments for `setup` that build the C++ operators."""
    reason = skips_cpp()
    if reason is not None:
        say(f"the C++ operators are left out: {reason}")
        without_cuda("they are part of the same library as the C++ operators")
        return {}
    missing = missing_tool()
    if missing is not None:
        raise SystemExit(
            f"albert_act_fast: {missing}. To install without the C++ operators, which are the "
            "fastest on CPUs, set ALBERT_ACT_FAST_SKIP_CPP=1."
        )
    from pybind11.setup_helpers import ParallelCompile

    ParallelCompile("MAX_JOBS").install()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = [
        source
        for source in cpp_sources()
        if not is_cuda(source) and (x86 or instruction_set(source) in (None, "portable"))
    ]
    instruction_sets = filter(None, map(instruction_set, sources))
    say(f"the C++ operators are built for {', '.join(instruction_sets)}")
    # Python's own flags may ask for debug information, eight times the size of the operators.
    debug, sanitize = ["-g0"], []
    if is_set("ALBERT_ACT_FAST_SANITIZE"):
        debug = ["-g1"]  # lines in the sanitizers' reports
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        sanitize += ["-fno-omit-frame-pointer", "-O0"]
    extension = Extension(
        "albert_act_fast._cpp_ops",
        sources=sources,
        depends=glob.glob("csrc/**/*.*", recursive=True),
        include_dirs=["third_party/torch/include"],
        py_limited_api=True,
        # Never -march=native: the instruction set is chosen when the library is loaded.
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-fopenmp-simd",
            "-fvisibility=hidden",
            "-Wall",
            "-Wno-psabi",
            f"-DPy_LIMITED_API={PY_LIMITED_API}",
            f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
            f'-DAAF_OLDEST_TORCH="{OLDEST_TORCH}"',
            f'-DAAF_COMPILER="{compiler_version()}"',
            *debug,
            *sanitize,
        ],
        extra_link_args=sanitize,
        language="c++",
    )
    nvcc_command = add_cuda(extension)

    class BuildNative(build_ext):
        def build_extensions(self):
            # A library that an earlier build left in build/ is newer than the sources, but for what
            # it was built (which GPUs, which sanitizers) nothing tells.
            self.force = True
            os.makedirs(self.build_temp, exist_ok=True)
            for source in glob.glob("csrc/**/*.cu", recursive=True) if nvcc_command else ():
                name = os.path.splitext(os.path.relpath(source, "csrc"))[0].replace(os.sep, "_")
                kernels = os.path.join(self.build_temp, f"{name}.cu.o")
                subprocess.run([*nvcc_command, "-c", source, "-o", kernels], check=True)
                extension.extra_objects.append(kernels)
            # On macOS Python's own flags leave symbols to be found when the library is loaded.
            if sys.platform == "linux":
                library = stand_in_for_torch(self.build_temp)
                extension.extra_link_args += ["-Wl,--no-as-needed", library]
            super().build_extensions()

        def copy_extensions_to_source(self):
            # One that an older state of these sources left, for one Python alone, would be loaded
            # in place of the one that is made now.
            for stale in glob.glob("albert_act_fast/_cpp_ops.*.so"):
                os.remove(stale)
            super().copy_extensions_to_source()

    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildNative},
        "options": {"bdist_wheel": {"py_limited_api": OLDEST_PYTHON}},
    }


def index_description(readme, repository):
    """README.md for a package index, which has none of the files that it points to.

    Pictures and links lead to the repository; without an address of that, pictures are left out and
    of links the text stays.
    """

    def absolute(match):
        picture, text, path = match.groups()
        if repository is None:
            return "" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/main/{path})"

    return re.sub(r"(!?)\[([^][]*)\]\((?!https?:|#)([^()\s]+)\)", absolute, readme)


def read(name):
    with open(name, encoding="utf-8") as file:
        return file.read()


repository = re.search(r'^Repository = "(.+?)/?"$', read("pyproject.toml"), re.MULTILINE)
setup(
    long_description=index_description(read("README.md"), repository and repository[1]),
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["albert_act_fast", "albert_act_fast.*"]),
        # Named by hand: it has no __init__.py (see kernels/README.md), so nothing finds it.
        "albert_act_fast.kernels",
    ],
    package_dir={"albert_act_fast.kernels": "kernels"},
    package_data={
        "albert_act_fast": ["py.typed", "data/**/*"],
        "albert_act_fast.kernels": ["*.md"],
        "albert_act_fast.serve": ["*.html"],
    },
    # The wheel holds what is listed above and nothing else, whatever lies in the tree.
    include_package_data=False,
    **native_extensions(),
)
