# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Every block of README.md and of the tutorials: Python runs, in order and in one namespace; shell names what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TUTORIALS = [ROOT / "docs" / f"{name}.md" for name in ("pruning", "quantized", "nm", "checkpoints", "compat")]
SHELL = {"bash", "sh", "shell", "console"}


def blocks(text: str) -> list[tuple[str, int, str]]:
    """(language, first line, text) of every fenced block."""
    found = []
    for match in re.finditer(r"^```([\w-]*)[^\n]*\n(.*?)^```\s*$", text, re.M | re.S):
        found.append((match[1], text[: match.start()].count("\n") + 2, match[2]))
    return found


def run_python_blocks(text: str, folder: Path) -> None:
    """One fresh interpreter for all Python blocks, in an empty folder, with line numbers of the README."""
    program = [""] * (text.count("\n") + 2)
    for language, line, body in blocks(text):
        if language in ("python", "py"):
            for offset, row in enumerate(body.splitlines()):
                program[line - 1 + offset] = row
    script = folder / "readme.py"
    script.write_text("\n".join(program))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"line numbers are those of the text:\n{done.stderr}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([A-Za-z][\w-]*)\s*:(?!=)", (ROOT / "Makefile").read_text(), re.M))


def unknown_commands(text: str) -> list[str]:
    """Commands whose make target, script or program does not exist."""
    wrong = []
    for language, _, body in blocks(text):
        if language not in SHELL:
            continue
        lines = body.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [row.lstrip()[1:] for row in lines if row.lstrip().startswith("$")]
        for row in lines:
            for part in re.split(r"&&|;|\|", row.split(" #")[0]):
                words = [w for w in part.split() if not re.match(r"^[A-Z_]+=", w)]
                if words and not words[0].startswith("#") and not known(words):
                    wrong.append(part.strip())
    return wrong


def known(words: list[str]) -> bool:
    if words[0] == "make":
        return all(w in make_targets() for w in words[1:] if "=" not in w and not w.startswith("-"))
    program = words[0].rsplit("/", 1)[-1]
    if program.startswith("python") and len(words) > 1 and not words[1].startswith("-"):
        return (ROOT / words[1]).is_file()
    if program in {"bash", "sh"} and len(words) > 1 and not words[1].startswith("-"):
        return (ROOT / words[1]).is_file()
    if "/" in words[0]:
        return (ROOT / words[0]).exists() or program in {"python", "python3", "pip", "pytest", "activate"}
    return program in {
        "cd",
        "git",
        "pip",
        "python",
        "python3",
        "source",
        "export",
        "apt-get",
        "sudo",
    } or bool(shutil.which(program))


def test_readme_has_blocks_of_both_kinds() -> None:
    languages = {language for language, _, _ in blocks(README.read_text())}
    assert languages & {"python", "py"} and languages & SHELL
    assert "" not in languages, "a fenced block without a language is neither run nor checked"


@pytest.mark.parametrize("path", [README, *TUTORIALS], ids=lambda path: path.name)
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    run_python_blocks(path.read_text(), tmp_path)


@pytest.mark.parametrize("path", [README, *TUTORIALS], ids=lambda path: path.name)
def test_shell_blocks_name_what_exists(path: Path) -> None:
    assert unknown_commands(path.read_text()) == []


def test_these_checks_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 3"):
        run_python_blocks("text\n```python\n1 / 0\n```\n", tmp_path)
    bad = "```bash\nmake no-such-target\npython examples/no_such_file.py\nmake test\n```\n"
    assert unknown_commands(bad) == ["make no-such-target", "python examples/no_such_file.py"]
