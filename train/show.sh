# show.sh - sourced by the scripts that show a fine-tune from start to end ($out: where they write): headings, steps whose output
# is seen only when they fail, and the build.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') green=$(printf '\033[32m') plain=$(printf '\033[0m'); else bold='' green='' plain=''; fi

title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }

# quietly NAME COMMAND...: its output goes to $out/NAME.log, and is shown only when it fails.
quietly() {
    log=$out/$1.log
    shift
    "$@" > "$log" 2>&1 && return 0
    echo
    cat "$log"
    echo "$(basename "$0" .sh): this failed: $*"
    exit 1
}

build() {
    cmake -S . -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build -j "$(nproc)" --target moesmith
}

build_moesmith() {
    printf 'building (up to a minute) ... '
    began_to_build=$(date +%s)
    quietly build build
    echo "done, $(($(date +%s) - began_to_build)) s"
}

# The loss that `quietly NAME-loss moesmith eval` wrote.
loss() { sed -n 's/^loss \([0-9]*\.[0-9][0-9][0-9]\).*/\1/p' "$out/$1-loss.log"; }
