#!/usr/bin/env bash
# Compares who gets which examples with Flower's own DirichletPartitioner; README.md says more.
#
#     bash tests/flower/check.sh
#
# PYTHON names the Python (python3), FEDPIPE a ready binary (else one is built).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    echo "skipped: there is no $python"
    exit 0
fi
missing=$("$python" - <<'PY'
from importlib.util import find_spec

print(*[name for name in ("numpy", "datasets", "flwr_datasets") if find_spec(name) is None])
PY
)
if [ -n "$missing" ]; then
    echo "skipped: $python has no ${missing// /, } (pip install flwr-datasets)"
    exit 0
fi

fedpipe=${FEDPIPE:-}
if [ -z "$fedpipe" ]; then
    cargo build --release
    fedpipe=${CARGO_TARGET_DIR:-target}/release/fedpipe
fi
# Nothing is fetched: every label is made here.
HF_HUB_OFFLINE=1 exec "$python" -B tests/flower/check.py "$fedpipe"
