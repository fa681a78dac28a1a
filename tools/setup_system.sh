#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
#
# Usage: setup_system.sh PYTHON STAMP
# Installs the system packages that are missing (as root, or through a sudo that asks for no password), or names them with
# the command that installs them. Writes STAMP when nothing is missing any more. Fails only where set-up cannot go on.
set -euo pipefail

python=$1
stamp=$2
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'set-up: %s\n' "$*" >&2; }

if ! command -v "$python" >/dev/null; then
    say "no $python here. Python 3.11 or newer is needed (Debian and Ubuntu: apt-get install python3 python3-venv python3-dev);"
    say "a Python of another name can be given: make PYTHON=python3.12 ..."
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "$python is $("$python" -V 2>&1), but Python 3.11 or newer is needed; name another one: make PYTHON=python3.12 ..."
    exit 1
fi

find_missing() { "$python" "$here/missing_packages.py"; }

missing=$(find_missing)
if [ -n "$missing" ]; then
    read -r -a packages <<<"$(cut -d' ' -f2 <<<"$missing" | sort -u | tr '\n' ' ')"
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="none"; fi
    fi
    if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
        say "installing the system packages ${packages[*]}"
        # shellcheck disable=SC2086  # as_root is empty or two words
        $as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' \
            sh "${packages[@]}" >/dev/null </dev/null || say "apt-get failed"
    fi
    missing=$(find_missing)
fi

if [ -n "$missing" ]; then
    say "these system packages are missing: $(cut -d' ' -f2 <<<"$missing" | sort -u | tr '\n' ' ')"
    say "install them with: sudo apt-get install -y $(cut -d' ' -f2 <<<"$missing" | sort -u | tr '\n' ' ')"
    say "(on a system without apt-get: the packages of the same purpose)"
    if grep -q '^core ' <<<"$missing"; then exit 1; fi
    say "going on without them: reading .pcd and .ply files and simulating scans (so also make demo) will fail until then"
    exit 0
fi
mkdir -p "$(dirname "$stamp")"
touch "$stamp"
