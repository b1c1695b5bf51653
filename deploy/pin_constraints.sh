#!/usr/bin/env bash
# Writes constraints-EXTRA.txt afresh: pin_constraints.sh PYTHON EXTRA.
# cpu: installs into a temporary copy of the project and writes what came out. torch is left out, because
# pyproject.toml pins it. gpu: only resolves, so that no GPU and no gigabytes of CUDA are needed.
set -euo pipefail
python=$1 extra=$2
project=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $extra in
cpu)
    (cd "$project" && cp --parents -t "$work" pyproject.toml README.md LICENSE engines/__init__.py loadtests/__init__.py server/__init__.py \
        deploy/setup_venv.py deploy/torchvision_ops.py)
    touch "$work/deploy/constraints-cpu.txt"
    "$python" "$work/deploy/setup_venv.py" --extra cpu
    title="# The versions this project is tested with on a CPU, from a fresh environment"
    "$work/.venv/bin/python" -m pip freeze --exclude-editable --exclude torch >"$work/pins"
    ;;
gpu)
    "$python" -m venv "$work/uv"
    "$work/uv/bin/pip" install uv
    title="# What a resolver chose for the gpu extra"
    "$work/uv/bin/uv" pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 --quiet \
        --no-annotate --no-header --extra gpu --extra dev "$project/pyproject.toml" >"$work/pins"
    ;;
*)
    echo "EXTRA must be cpu or gpu" >&2
    exit 2
    ;;
esac
{
    echo "$title; written by \`make constraints EXTRA=$extra\`."
    cat "$work/pins"
} >"$project/deploy/constraints-$extra.txt"
