#!/usr/bin/env bash
# Measures the kernels on a machine with a GPU, beside PyTorch where it is installed, and writes one JSON file.
#
#   tools/gpu_session.sh prepare        on a machine with a compiler: builds what the other machine runs, into gpu-session/
#   tools/gpu_session.sh run FILE       on the machine with the GPU: needs gpu-session/ and nothing else
#
# `run` takes at most three minutes: LIMIT=seconds changes that, MODELS="mnist rgb32" the shapes. A Vulkan loader is taken from
# gpu-session/deb/*.deb when the machine has none (`apt-get download libvulkan1` puts it there).
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=gpu-session
models=${MODELS:-mnist rgb32 imagenet64}
limit=${LIMIT:-180}

prepare() {
    mkdir -p "$bundle/deb"
    local binary
    binary=$(cargo bench --no-default-features --features gpu,cpu --bench forward --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*forward[^"]*\)".*/\1/p' | tail -n 1)
    cp "$binary" "$bundle/forward"
    cp -r benches/shapes benches/pytorch.py "$bundle/"
    ls -l "$bundle"
}

# Runs a command within what is left of the time; a failure is told and leaves the rest to run.
within() {
    local left=$((limit - SECONDS))
    if ((left < 5)); then
        echo "no time left for: $*" >&2
    else
        timeout "$left" "$@" || echo "failed or ran out of time: $*" >&2
    fi
}

run() {
    local report=$1 part
    part=$(mktemp -d)
    if ! ldconfig -p | grep -q libvulkan && compgen -G "$bundle/deb/*.deb" >/dev/null; then
        for package in "$bundle"/deb/*.deb; do dpkg -x "$package" /; done
        ldconfig
    fi
    # Small shapes first: what comes late may be cut off.
    for model in $models; do
        within "$bundle/forward" "$model" --batch 1,16 --candidates --parity --json "$part/ours-$model.json"
    done
    if python3 -c 'import torch, diffusers' 2>/dev/null; then
        for model in $models; do
            within python3 "$bundle/pytorch.py" "$model" --json "$part/pytorch-$model.json"
        done
    fi
    python3 - "$part" "$report" "$SECONDS" <<'PYTHON'
import json, pathlib, sys

part, report, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
found = {file.stem: json.loads(file.read_text()) for file in sorted(part.glob("*.json"))}
pathlib.Path(report).write_text(json.dumps({"seconds": seconds, **found}, indent=1) + "\n")
print(f"{report}: {', '.join(found) or 'nothing was measured'}, {seconds} s")
PYTHON
    rm -r "$part"
}

case "${1:-}" in
    prepare) prepare ;;
    run) run "${2:?expected the file to write}" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
