#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
#
# Usage: PY=.venv/bin/python typecheck.sh
# mypy over everything, seen as it is installed: datasets/ and pruning/ stand at the top of the tree but belong to the package,
# which mypy knows nothing of, so it is shown a folder of links. It names datasets/x.py as sparseconv/datasets/x.py.
set -euo pipefail

root=$PWD
py=$root/${PY:?name the Python of the virtual environment}
view=$root/build/typecheck
rm -rf "$view"
mkdir -p "$view/sparseconv"
for entry in sparseconv/*; do ln -s "$root/$entry" "$view/sparseconv/"; done
for folder in datasets pruning; do
    if [ -f "$folder/__init__.py" ]; then ln -s "$root/$folder" "$view/sparseconv/$folder"; fi
done
shopt -s nullglob
scripts=("$root"/examples/*.py "$root"/benchmarks/*.py "$root"/tools/*.py "$root/tools/gpu_check")
cd "$view"
MYPYPATH=$view:$root/examples:$root/benchmarks:$root/tools exec "$py" -m mypy --config-file "$root/pyproject.toml" \
    --cache-dir "$root/.mypy_cache" sparseconv "${scripts[@]}"
