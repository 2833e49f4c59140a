#!/usr/bin/env bash
# Builds what is carried to a machine with a GPU, in one compressed file; README.md says what to do with it there.
#
#     bash pipeline/benches/gpu/carry.sh DIR
#
# FEATURES names the features (fedpipe/cuda,fedpipe/vulkan), PROFILE the profile (release); CPP=1 adds programs that use CUDA's
# C++ compiler.
set -euo pipefail
to=$(mkdir -p "${1:?name a folder}" && cd "$1" && pwd)
cd "$(dirname "$0")/../../.."
features=${FEATURES:-fedpipe/cuda,fedpipe/vulkan}
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
built=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0

packed=$to/fedpipe-gpu
rm -rf "$packed"
mkdir -p "$packed/graphs" "$packed/peers"

# pack FEATURES SUFFIX: both programs, stripped.
pack() {
    # A benchmark's file has a hash in its name: cargo says which it is.
    cargo build --profile "$profile" --features "$1" --bin fedpipe
    bench=$(cargo bench --profile "$profile" --features "$1" --bench gpu --no-run --message-format json |
        grep -o '"executable":"[^"]*/gpu-[^"]*"' | cut -d'"' -f4 | tail -1)
    strip -o "$packed/fedpipe$2" "$built/fedpipe"
    strip -o "$packed/gpu$2" "$bench"
}

pack "$features" ""
if [ "${CPP:-}" = 1 ]; then
    pack "$features,fedpipe/cuda-cpp" "-cpp"
fi
cp -r graphs/quickstart.ron graphs/data "$packed/graphs/"
cp pipeline/benches/peers/step.py "$packed/peers/"
cp pipeline/benches/gpu/run.sh "$packed/"
tar -C "$to" -cf - fedpipe-gpu | xz -6 -T0 >"$to/fedpipe-gpu.tar.xz"
du -h "$to/fedpipe-gpu.tar.xz"
