#!/bin/sh
# Sets up a virtual environment: pinned requirements, and this package, editable. Compiling takes as
# long as installing, and needs little of it, so both run at the same time.
#
#     sh requirements/install.sh .venv run    # what `make demo` needs: no tools, Triton or CUDA
#     sh requirements/install.sh .venv dev    # what `make test` needs (`make venv`)
#
# PYTHON: the interpreter to make it with, python3 unless told.
set -eu

venv=$1
for_whom=$2
python=${PYTHON:-python3}
log=build/compile.log

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "The pinned requirements need Python 3.11 or newer; $python is $("$python" -V 2>&1)."
    echo "Choose another one, as in: make demo PYTHON=python3.12"
    exit 1
}

# Modules are compiled when they are first imported: of most packages only a few ever are.
install() {
    "$venv/bin/pip" install --no-compile "$@"
}

pinned() {
    grep "^$1==" requirements/run.txt
}

"$venv/bin/pip" --version >/dev/null 2>&1 || {
    echo "[venv] creating $venv"
    "$python" -m venv --clear "$venv"
}
install -q "$(pinned setuptools)" "$(pinned pybind11)"

if [ "$for_whom" = run ]; then
    export ALBERT_ACT_FAST_SKIP_CUDA=1
    echo "[venv] the C++ operators are compiled while the rest is installed"
else
    echo "[venv] the C++ operators are compiled while the rest is installed, for CUDA too where there is nvcc"
fi
mkdir -p build
"$venv/bin/python" setup.py build_ext --inplace >"$log" 2>&1 &
compiling=$!
trap 'test -z "$compiling" || kill "$compiling"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wait_for_compiler() {
    if wait "$compiling"; then
        compiling=
    else
        compiling=
        cat "$log" >&2
        echo "[venv] compiling the C++ operators failed: see above, and $log" >&2
        exit 1
    fi
}

# One that has failed by now is not waited for until all else is there.
step() {
    test -z "$compiling" || kill -0 "$compiling" 2>/dev/null || wait_for_compiler
    echo "[venv] $1"
}

step "1/3 PyTorch: the longest step, several minutes if it has to be downloaded"
install "$(pinned torch)"
step "2/3 the other pinned requirements"
if [ "$for_whom" = run ]; then
    install -r requirements/run.txt
else
    install -r requirements/dev.txt
    "$venv/bin/python" -c 'import triton' 2>/dev/null || install -r requirements/triton.txt
fi
step "3/3 this package, editable, once its operators are compiled"
test -z "$compiling" || wait_for_compiler
ALBERT_ACT_FAST_SKIP_CPP=1 install --no-build-isolation --no-deps -e .
