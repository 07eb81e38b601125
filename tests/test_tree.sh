#!/bin/sh
# test_tree.sh - the floor plan, as a test: each folder includes only what lies below it, and each
# kind of knowledge lives in one folder.
cd "$(dirname "$0")/.." || exit 2
bad=0
no() { # no WHAT PATTERN FOLDER...
    what=$1; pattern=$2; shift 2
    hits=$(grep -rnE "$pattern" "$@" --include='*.c' --include='*.h' --include='*.cu' --include='*.def')
    [ -z "$hits" ] || { echo "$what:"; echo "$hits"; bad=1; }
}
no "autograd looks up" '#include "(\.\./)*(data|model|train|tests)/' autograd
no "data looks up" '#include "(\.\./)*(model|train|tests)/' data
no "model looks up" '#include "(\.\./)*(train|tests)/' model
no "train includes a test" '#include "(\.\./)*tests/' train
no "data includes more of autograd than its ground floor" '#include "\.\./autograd/(ops|tape|tensor|gemm|simd|blas)' data
no "a device or BLAS call outside autograd" '\b(cuda[A-Z]\w*|cublas\w*|cblas_\w*|openblas_\w*)\(|immintrin\.h' data model train
no "a file opened outside data" '\b(fopen|open|mmap|creat|mkdtemp|mkstemp)\(' model train
no "malloc outside the ground floor" '\b(malloc|calloc|realloc)\(' model train data autograd/ops autograd/quant
no "exit outside main" '[^_a-z](exit|abort)\(' data model autograd/ops
for f in $(git ls-files 'autograd/*.[ch]' 'data/*.[ch]' 'model/*.[ch]' 'train/*.[ch]' 'tests/*.[ch]' 2>/dev/null || true); do
    n=$(wc -l < "$f")
    [ "$n" -le 600 ] || { echo "$f has $n lines; 600 is the most"; bad=1; }
done
[ $bad = 0 ] && echo "the floor plan holds"
exit $bad
