# install.sh - sourced by the scripts that build: installs the Debian packages the build needs,
# where they are missing (with sudo where that is needed and there), and those named in $also.
packages="cmake make gcc pkg-config libopenblas-dev libhdf5-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libcmocka-dev ${also:-}"
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q "install ok installed" || missing="$missing $p"
done
if [ -n "$missing" ]; then
    echo "installing:$missing"
    as_root=""
    if [ "$(id -u)" != 0 ]; then as_root=sudo; fi
    apt_log=$(mktemp)
    # shellcheck disable=SC2086 -- one word a package
    if ! { $as_root apt-get update && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y --no-install-recommends $missing; } > "$apt_log" 2>&1; then
        cat "$apt_log"
        echo "these packages could not be installed:$missing"
        exit 1
    fi
    rm -f "$apt_log"
fi
