#!/usr/bin/env bash
# Compares what fedpipe exports and predicts with PEFT and transformers; README.md says what with what.
#
#     bash tests/peft/check.sh
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

print(*[name for name in ("torch", "transformers", "peft", "safetensors") if find_spec(name) is None])
PY
)
if [ -n "$missing" ]; then
    echo "skipped: $python has no ${missing// /, } (pip install torch transformers peft)"
    exit 0
fi

fedpipe=${FEDPIPE:-}
if [ -z "$fedpipe" ]; then
    cargo build --release
    fedpipe=${CARGO_TARGET_DIR:-target}/release/fedpipe
fi
# Nothing is fetched: every model lies in a folder.
HF_HUB_OFFLINE=1 exec "$python" -B tests/peft/check.py "$fedpipe"
