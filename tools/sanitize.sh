#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
#
# Usage: PY=.venv/bin/python sanitize.sh
# Builds the CPU module and the native check programs with -fsanitize=address,undefined into build/sanitize (the module in
# use stays as it is) and runs them. tests/test_native.py loads the module that SPARSECONV_NATIVE names, without torch.
set -euo pipefail

py=${PY:?name the Python of the virtual environment}
out=build/sanitize
export SPARSECONV_SANITIZE=1 SPARSECONV_CUDA=0

"$py" setup.py -q build_ext --build-lib "$out"
"$py" setup.py -q build_tools --output "$out/tools"

export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Leaks: Python's own start-up has some; what is looked for is bad access and undefined behaviour. The check for use of a stack after
# return stays off: its stacks are not aligned for AVX-512 registers before GCC 14 (bug 110027).
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:strict_init_order=1

for program in "$out"/tools/check_*; do
    echo "sanitize: $program"
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=1 "$program"
done

# The sanitizer must be loaded before Python, and libstdc++ with it: it looks up the function that throws exceptions once, at the start.
cxx=${CXX:-c++}
preload="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so)"
module=$(ls "$out"/sparseconv/_cpu.*)
echo "sanitize: tests/test_native*.py on $module"
# --capture=sys: a report is written to the file descriptor, which pytest would swallow when the process ends.
LD_PRELOAD=$preload SPARSECONV_NATIVE=$PWD/$module "$py" -m pytest --noconftest -p no:cacheprovider -p no:xdist --capture=sys tests/test_native*.py
