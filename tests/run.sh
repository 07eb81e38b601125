#!/bin/sh
# run.sh - installs what is missing, builds, and runs the whole test suite: once optimised, and the
# parsers and units once more under AddressSanitizer and UndefinedBehaviorSanitizer.
set -eu
cd "$(dirname "$0")/.."
. train/install.sh
jobs=$(nproc)

cmake -S . -B build -DMOESMITH_WERROR=ON > build-configure.log 2>&1 || { cat build-configure.log; exit 1; }
rm -f build-configure.log
cmake --build build -j "$jobs"

cmake -S . -B build-sanitize -DCMAKE_BUILD_TYPE=Debug -DMOESMITH_SANITIZE=ON -DMOESMITH_WERROR=ON > /dev/null
cmake --build build-sanitize -j "$jobs"

status=0
ASAN_OPTIONS=detect_leaks=1 ctest --test-dir build-sanitize --output-on-failure -j "$jobs" || status=1
ctest --test-dir build --output-on-failure || status=1
exit $status
