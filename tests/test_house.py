# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The house: who may import whom, what the compiled modules link, and that optional packages stay optional."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from instruction_sets import ORDER

ROOT = Path(__file__).resolve().parents[1]
COMPILED = {"sparseconv._cpu", "sparseconv._cuda"}


def python_files(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py") if "__pycache__" not in p.parts)


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] in ("datasets", "pruning"):
        parts.insert(0, "sparseconv")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, name: str, is_package: bool) -> set[str]:
    """Absolute names of all modules that a source imports, function bodies included, TYPE_CHECKING blocks not."""
    found: set[str] = set()
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")
            if node.level:
                base = base[: len(base) - node.level + (1 if is_package else 0)]
                base += node.module.split(".") if node.module else []
            else:
                base = (node.module or "").split(".")
            found.add(".".join(base))
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def graph(*folders: str) -> dict[str, set[str]]:
    return {
        module_name(p): imports_of(p.read_text(), module_name(p), p.name == "__init__.py")
        for p in python_files(*folders)
    }


def within(names: set[str], package: str) -> set[str]:
    return {n for n in names if n == package or n.startswith(package + ".")}


# What a layer of the house must not reach up to. A later line may use all earlier ones.
LAYERS = [
    [
        "sparseconv._buffer",
        "sparseconv._scratch",
        "sparseconv._native_cuda",
        "sparseconv._native",
        "sparseconv._native_maps",
        "sparseconv._cuda_keys",
        "sparseconv.geometry",
    ],
    ["sparseconv._native_eie", "sparseconv._native_quantized", "sparseconv._native_vectors"],
    ["sparseconv._cuda_sites", "sparseconv.mapping"],
    ["sparseconv._cuda_pairs", "sparseconv.pairing"],
    ["sparseconv.ops", "sparseconv.sites"],
    ["sparseconv.pairs"],
    ["sparseconv.map_builder"],
    ["sparseconv.kernel_map", "sparseconv.tensor", "sparseconv.elementwise", "sparseconv.joining"],
    ["sparseconv.functional", "sparseconv.gather_scatter", "sparseconv.voxelize", "sparseconv.first_come"],
    ["sparseconv.nn", "sparseconv.convert", "sparseconv.compat"],
    ["sparseconv.models", "sparseconv.fusion", "sparseconv.formats"],
]


def rank(module: str) -> int | None:
    for level, group in enumerate(LAYERS):
        if any(module == m or module.startswith(m + ".") for m in group):
            return level
    return None


def test_imports_point_one_way() -> None:
    wrong = []
    for module, names in graph("sparseconv").items():
        own = rank(module)
        if own is None:
            continue
        wrong += [f"{module} -> {n}" for n in names if (rank(n) or 0) > own and n.startswith("sparseconv.")]
    assert not wrong, wrong


def test_only_native_imports_the_compiled_modules() -> None:
    everything = graph("sparseconv", "datasets", "pruning", "examples", "benchmarks")
    importers = {m for m, names in everything.items() if names & COMPILED}
    assert importers == {"sparseconv._native"}
    users = {m for m, names in everything.items() if within(names, "sparseconv._native")}
    assert not {
        m for m in users if re.match(r"sparseconv\.(nn|models|formats|convert|compat|pruning|datasets)", m)
    }, users


def test_the_package_never_imports_its_plugins() -> None:
    for module, names in graph("sparseconv").items():
        for plugin in ("sparseconv.pruning", "sparseconv.datasets", "pruning", "datasets"):
            assert not within(names, plugin), f"{module} imports {plugin}"


def test_plugins_examples_and_benchmarks_use_public_names() -> None:
    compiled = "_cpu _cuda _buffer _scratch _native _native_cuda _native_eie _native_maps".split()
    compiled += ["_cuda_keys", "_cuda_sites", "_cuda_pairs"]
    rest = "first_come sites geometry mapping pairing pairs map_builder kernel_map".split()
    rest += ["tensor", "elementwise", "joining", "ops", "gather_scatter"]
    internal = compiled + rest
    for module, names in graph("datasets", "pruning", "examples", "benchmarks").items():
        for bad in internal:
            assert not within(names, f"sparseconv.{bad}"), f"{module} imports sparseconv.{bad}"
        private = [
            n for n in names if n.startswith("sparseconv.") and any(p.startswith("_") for p in n.split("."))
        ]
        private = [n for n in private if not n.startswith(("sparseconv.datasets", "sparseconv.pruning"))]
        assert not private, f"{module} imports {private}"


def test_the_oracle_imports_nothing_of_ours() -> None:
    for name in ("oracle", "strategies", "test_oracle"):
        imported = imports_of((ROOT / "tests" / f"{name}.py").read_text(), name, False)
        assert not within(imported, "sparseconv"), name


def test_import_directions_can_be_violated() -> None:
    """The reader of imports sees every spelling."""
    source = (
        "from . import _native\nfrom ..sites import Sites\ndef f():\n    import sparseconv.nn.conv as c\n"
    )
    seen = imports_of(source, "sparseconv.nn.pool", False)
    assert {
        "sparseconv.nn._native",
        "sparseconv.sites",
        "sparseconv.sites.Sites",
        "sparseconv.nn.conv",
    } <= seen
    assert "sparseconv._cpu" in imports_of("from . import _cpu", "sparseconv._native", False)
    assert rank("sparseconv.nn.conv") > rank("sparseconv.functional") > rank("sparseconv.sites")


def compiled_files() -> list[Path]:
    import sparseconv

    folder = Path(sparseconv.__file__).parent
    return sorted([*folder.glob("_cpu*.so"), *folder.glob("_cuda*.so"), *folder.glob("_cpu*.pyd")])


def test_no_libtorch_is_linked() -> None:
    files = compiled_files()
    assert any(f.name.startswith("_cpu") for f in files)
    for path in files:
        linked = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
        assert "libc" in linked  # ldd really listed something
        linked = re.sub(r"\(0x[0-9a-f]+\)", "", linked)  # addresses, which may well hold "c10"
        assert not re.search(r"torch|c10|\bcaffe", linked), linked
        assert b"_ZN3c10" not in path.read_bytes() and b"_ZN2at6" not in path.read_bytes()


def test_the_core_includes_no_torch_and_only_bind_includes_pybind11() -> None:
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    assert sources
    order = {"core": 0, "mapping": 1, "compute": 1, "sparse": 1, "bind": 2, "tools": 3}
    for path in sources:
        folder = path.relative_to(ROOT / "csrc").parts[0]
        for include in re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text()):
            assert not re.match(r"(torch|ATen|c10)/", include), f"{path} includes {include}"
            assert folder == "bind" or not include.startswith("pybind11/"), f"{path} includes {include}"
            top = include.split("/")[0]
            if top in order and top != folder:
                assert order[top] < order[folder], f"{path} includes {include}"


def test_the_cuda_module_has_the_cpu_modules_compute_functions() -> None:
    """It has maps and plans of rows of its own."""
    cpu = importlib.import_module("sparseconv._cpu")
    try:
        cuda = importlib.import_module("sparseconv._cuda")
    except ImportError as error:
        pytest.skip(f"no CUDA module: {error}")
    compute = {n for n in dir(cpu) if re.match(r"gather_|column_sum|max_pool", n)}
    assert compute and compute <= set(dir(cuda))


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_takes_no_open3d_and_nothing_heavy() -> None:
    names = "open3d matplotlib torchmetrics tensorboard rich spconv hypothesis scipy pandas".split()
    code = (
        "import sys, sparseconv, sparseconv.nn, sparseconv.models, sparseconv.convert, sparseconv.datasets\n"
        f"print(sorted(set(sys.modules) & set({names!r})))"
    )
    assert run_python(code) == "[]"


def test_the_core_works_where_open3d_is_absent() -> None:
    code = (
        "import sys\nsys.modules['open3d'] = None\n"  # an import of it raises ImportError
        "import torch, sparseconv, sparseconv.nn as nn, sparseconv.datasets\n"
        "x, index = sparseconv.voxelize(torch.rand(100, 3), voxel_size=0.2)\n"
        "print(nn.SubMConv3d(3, 4, 3)(x).features.shape[1])"
    )
    assert run_python(code) == "4"


def test_a_compiled_module_that_is_missing_says_what_to_do() -> None:
    code = (
        "import sys\nsys.modules['sparseconv._cpu'] = None\n"
        "try:\n    import sparseconv\nexcept ImportError as error:\n    print(error)"
    )
    message = run_python(code)
    assert "_cpu" in message and re.search(r"pip install|make|build", message), message


def test_every_public_name_of_the_contract_exists() -> None:
    import torch

    import sparseconv
    import sparseconv.nn as spnn

    top = "SparseTensor voxelize devoxelize cat collate build_kernel_map KernelMap nn models convert datasets show_config"
    importlib.import_module("sparseconv.datasets")
    missing = [n for n in top.split() if not hasattr(sparseconv, n)]
    families = "SubMConv Conv ConvTranspose InverseConv MaxPool AvgPool".split()
    layers = [f"{f}{d}d" for f in families for d in (1, 2, 3, 4)]
    layers += "GlobalMaxPool GlobalAvgPool BatchNorm LayerNorm InstanceNorm GroupNorm ReLU Dropout Linear Sequential".split()
    missing += [f"nn.{n}" for n in layers if not hasattr(spnn, n)]
    tensor = "features coords stride spatial_shape batch_size replace dense to clear_cache".split()
    x = sparseconv.SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32))
    missing += [f"SparseTensor.{n}" for n in tensor if not hasattr(x, n)]
    assert not missing, missing


def test_show_config_says_what_was_built() -> None:
    import torch

    import sparseconv

    config = sparseconv.show_config()
    assert {"version", "instruction_set", "threads", "cuda", "cuda_architectures"} <= set(config)
    assert config["instruction_set"] in ORDER
    assert isinstance(config["cuda"], bool)
    assert config["gpus"] > 0 or not torch.cuda.is_available()
    declared = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared and config["version"] == sparseconv.__version__ == declared[1]


def test_headers_and_file_lengths() -> None:
    """SPDX headers are a rule; a long file is a smell, so it only warns."""
    python = python_files("sparseconv", "datasets", "pruning", "examples", "benchmarks", "tests")
    native = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    without = [
        str(p) for p in [*python, *native] if "SPDX-License-Identifier: Apache-2.0" not in p.read_text()[:300]
    ]
    assert not without, without
    for path in [*python, *native]:
        limit = 300 if path.suffix == ".py" else 350
        lines = len(path.read_text().splitlines())
        if lines > limit:
            warnings.warn(
                f"{path.relative_to(ROOT)} has {lines} lines (house rule: about {limit})", stacklevel=1
            )


def test_no_print_no_bare_except_no_assert_in_the_package() -> None:
    wrong = []
    for path in python_files("sparseconv", "datasets"):
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{place} bare except")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("print", "exit")
            ):
                wrong.append(f"{place} {node.func.id}()")
            if isinstance(node, ast.Assert):
                wrong.append(f"{place} assert")
    assert not wrong, wrong
