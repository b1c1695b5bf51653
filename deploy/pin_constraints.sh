#!/usr/bin/env bash
# Resolves the environment afresh, in a temporary copy of the project, and writes what came out to constraints.txt.
# torch is left out: pyproject.toml pins it, and its CPU and CUDA builds bear different versions.
set -euo pipefail
python=${1:-python3}
project=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -C "$project" ls-files -z --cached --others --exclude-standard -- pyproject.toml README.md LICENSE deploy server engines/__init__.py |
    (cd "$project" && xargs -0 cp --parents -t "$copy")
touch "$copy/deploy/constraints.txt"
"$python" "$copy/deploy/setup_venv.py" --unpinned
{
    echo "# The versions this project is tested with; written by \`make constraints\`."
    "$copy/.venv/bin/python" -m pip freeze --exclude-editable --exclude torch
} >"$project/deploy/constraints.txt"
