#!/usr/bin/env bash
# A small federation on a CUDA driver that is none, and every kernel through ptxas; README.md says what that shows.
#
#     bash tests/cuda/check.sh
#
# FEDPIPE names a ready binary with the feature `cuda` (else one is built), PTXAS the assembler, CUDA_PATH the folder with
# nvvm/libdevice, CC the C compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=${CC:-cc}
ptxas=${PTXAS:-ptxas}

skip() { echo "skipped: $*"; exit 0; }
command -v "$compiler" >/dev/null || skip "there is no $compiler"
command -v "$ptxas" >/dev/null || skip "there is no $ptxas (PyPI's nvidia-cuda-nvcc has one)"
[ -e "${CUDA_PATH:-}/nvvm/libdevice/libdevice.10.bc" ] \
    || skip "CUDA_PATH leads to no nvvm/libdevice/libdevice.10.bc (PyPI's nvidia-nvvm has one)"

fedpipe=${FEDPIPE:-}
if [ -z "$fedpipe" ]; then
    cargo build --release --features cuda
    fedpipe=${CARGO_TARGET_DIR:-target}/release/fedpipe
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/driver"
"$compiler" -O1 -shared -fPIC -o "$scratch/driver/libcuda.so" tests/cuda/fake_libcuda.c
ln -s libcuda.so "$scratch/driver/libcuda.so.1"

# train PTX-FOLDER STORE BATCH: three clients, two rounds, with a cohort and a score after each round.
train() {
    mkdir -p "$1"
    LD_LIBRARY_PATH="$scratch/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" MOCK_PTX_DIR="$1" \
        FEDPIPE_KERNELS="$scratch/kernels" "$fedpipe" --store "$2" run graphs/quickstart.ron \
        --device cuda --cohort 3 --set fed.rounds=2 --set shards.clients=3 \
        --set "fed.local=(steps: 2, batch: $3, optimizer: AdamW(lr: 3e-3))" --json >"$scratch/events" 2>"$scratch/told"
}
run() {
    train "$1" "$2" 16 || {
        tail -5 "$scratch/told"
        exit 1
    }
}

# More than the card has is refused before anything is done.
code=0
train "$scratch/refused" "$scratch/store-0" 60000 || code=$?
grep "of memory, and cuda:0" "$scratch/told"
[ "$code" -eq 2 ]

run "$scratch/first" "$scratch/store-1"
tail -1 "$scratch/events"
grep -c '"event":"started".*"device":"cuda:0 ' "$scratch/events" | sed 's/$/ steps ran on cuda:0/'
first=$(tail -1 "$scratch/events" | grep -o '"seconds":[0-9.]*')
made=$(find "$scratch/first" -name '*.ptx' | wc -l)
refused=0
for kernel in "$scratch"/first/*.ptx; do
    # The card that the kernel is for: Burn compiles for sm_90a on an H100.
    card=$(sed -n 's/^\.target *\([a-z0-9_]*\).*/\1/p' "$kernel" | head -1)
    "$ptxas" -arch="$card" -o /dev/null "$kernel" >"$scratch/ptxas" 2>&1 || {
        refused=$((refused + 1))
        head -3 "$scratch/ptxas"
    }
done
echo "$made kernels, $refused refused by ptxas"

run "$scratch/second" "$scratch/store-2"
second=$(tail -1 "$scratch/events" | grep -o '"seconds":[0-9.]*')
echo "first process $first, second $second, which finds its kernels in a cache of $(du -sh "$scratch/kernels" | cut -f1)"
[ "$made" -gt 0 ] && [ "$refused" -eq 0 ]
