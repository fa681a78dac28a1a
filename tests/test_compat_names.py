# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the drop-in beside those of spconv's wheel, module by module, and the members of its classes; what is left out is
listed. And what is said of single layers: the synchronized norm, weights that are not copied.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import torch
from torch import nn

import sparseconv.compat.spconv as ours
from sparseconv import compat

theirs = pytest.importorskip("spconv.pytorch", reason="spconv's wheel is not installed")

# Why a name is left out, and the names. What a module imports from Python, torch and spconv's helpers is no name of its own.
LEFT_OUT = {
    "settings of spconv's build and of its GPU kernels": """
        ALL_IMPGEMM_PARAMS ALL_NATIVE_PARAMS AllocKeys BOOST_ROOT CONV CONV_CPP CPU_ONLY_BUILD DEBUG DEBUG_INT64_HASH_K
        DISABLE_JIT EDITABLE_INSTALLED GEMM GEMM_CPP IMPLGEMM_AMPERE_PARAMS IMPLGEMM_SIMT_PARAMS IMPLGEMM_TURING_PARAMS
        IMPLGEMM_VOLTA_PARAMS INT32_MAX NDIM_DONT_CARE NVRTCMode PACKAGE_NAME PACKAGE_ROOT PYTORCH_VERSION
        SHUFFLE_AMPERE_PARAMS SHUFFLE_SIMT_PARAMS SHUFFLE_TURING_PARAMS SHUFFLE_VOLTA_PARAMS SPCONV_BWD_SPLITK
        SPCONV_CPP_GEMM SPCONV_CPP_INDICE_PAIRS SPCONV_CPP_INDICE_PAIRS_IGEMM SPCONV_DEBUG_CPP_ONLY
        SPCONV_DEBUG_NVRTC_KERNELS SPCONV_DEBUG_SAVE_PATH SPCONV_DEBUG_WEIGHT SPCONV_DIRECT_TABLE_HASH_SIZE_SCALE
        SPCONV_DO_SORT SPCONV_INT8_DEBUG SPCONV_NVRTC_MODE SPCONV_USE_DIRECT_TABLE TORCH_HAS_AMP project_is_editable
        project_is_installed is_amp_enabled remove_dotdev remove_plus get_arch""",
    "names that other modules of the drop-in have": """
        ALL_WEIGHT_IS_KRSC FILTER_HWIO SAVED_WEIGHT_LAYOUT SPCONV_ALLOW_TF32 SPCONV_FX_TRACE_MODE SPCONV_VERSION_NUMBERS
        ConvAlgo HashTable expand_nd""",
    "bindings and buffers of its C++ code": """
        CUDAKernelTimer ConvBwdWeight ConvFwdAndBwdInput ConvGemmOps ExternalAllocator InferenceOps SpconvOps
        ThrustSortAllocator TorchAllocator TorchSpconvMatmul get_current_stream torch_tensor_to_tv ImplicitGemmIndiceData
        ProxyableClassMeta SpConvTensorMeta""",
    "autograd functions behind its layers": """
        SparseAvgPoolImplicitGemmFunction SparseConvFunction SparseImplicitGemmFunction SparseInverseConvFunction
        SparseMaxPoolFunction SparseMaxPoolImplicitGemmFunction SubMConvFunction""",
    "debugging": "PrintCurrentTime PrintTensorMeta spconv_save_debug_data identity_decorator nullcontext main",
}
MODULES_LEFT_OUT = {
    "cppcore": "bindings of its C++ code",
    "interpreter": "of its int8 layers",
    "spatial": "a layer that writes into the indices it is given",
}
KNOWN = {name for names in LEFT_OUT.values() for name in names.split()}
MODULES = {k: v for k, v in compat._SPCONV.items() if k != "pytorch.quantization"}


def own_names(module: Any) -> list[str]:
    """A module's public names, without modules, typing, and what it has from packages other than spconv."""
    found = []
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None)
        home = home if isinstance(home, str) else ""
        foreign = inspect.ismodule(value) or (home and not home.startswith("spconv"))
        if not name.startswith("_") and not foreign and name not in ("Union", "Optional", "List", "tv"):
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES)
def test_every_name_is_there_or_listed(path: str) -> None:
    own = importlib.import_module(f"{ours.__name__}.{MODULES[path]}".rstrip("."))
    missing = {n for n in own_names(importlib.import_module(f"spconv.{path}")) if not hasattr(own, n)}
    assert not missing - KNOWN


def test_the_list_has_no_name_too_many() -> None:
    """What is listed exists in the wheel, and every module is mapped or listed."""
    known = {n for path in MODULES for n in dir(importlib.import_module(f"spconv.{path}"))}
    assert not KNOWN - known
    modules = {m.name for m in pkgutil.iter_modules(theirs.__path__)}
    assert modules == {p.removeprefix("pytorch.") for p in compat._SPCONV if "." in p} | set(MODULES_LEFT_OUT)


def test_members_of_classes() -> None:
    for name in ours.__all__:
        own, other = getattr(ours, name), getattr(theirs, name, None)
        if inspect.isclass(own) and inspect.isclass(other):
            missing = [n for n in dir(other) if not n.startswith("_") and not hasattr(own, n)]
            assert not missing, f"{name}: {missing}"


def test_what_is_left_out_says_so() -> None:
    calls = [ours.utils.rbbox_iou, ours.utils.non_max_suppression_cpu, ours.utils.BoxOps]
    calls += [ours.ops.fused_indice_conv, ours.ops.indice_conv_backward, ours.functional.implicit_gemm]
    calls += [ours.quantization.get_default_spconv_qconfig_mapping]
    for call in calls:
        with pytest.raises(NotImplementedError, match="spconv's"):
            call(1, two=2)
    with pytest.raises(AttributeError):
        ours.quantization.__path__  # noqa: B018  modules are asked for such names
    x = ours.SparseConvTensor(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int32), [3], 1)
    with pytest.raises(ValueError, match="not quantized"):
        x.q_scale()


def test_scatter_nd() -> None:
    indices, updates = torch.tensor([[0, 2], [1, 0]]), torch.randn(2, 3)
    got = ours.core.scatter_nd(indices, updates, [2, 4, 3])
    assert torch.equal(got, theirs.core.scatter_nd(indices, updates, [2, 4, 3]))


def test_synchronized_norm_in_one_process(tmp_path: Any) -> None:
    """As BatchNorm1d over the rows; with a group of processes torch's own layer refuses the CPU."""
    indices = torch.stack([torch.zeros(40), torch.arange(40)], 1).int()
    x = ours.SparseConvTensor(torch.randn(40, 4), indices, [40], 1)
    norm, plain = ours.SparseSyncBatchNorm(4), nn.BatchNorm1d(4)
    for training in (True, False):
        assert torch.equal(norm.train(training)(x).features, plain.train(training)(x.features))
        assert torch.equal(norm.running_var, plain.running_var)
    assert torch.equal(norm(x.features), plain(x.features))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert torch.equal(norm.eval()(x).features, plain.eval()(x.features))
        with pytest.raises(ValueError, match="GPU"):
            norm.train()(x)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(
            ours.SparseSequential(ours.SubMConv1d(4, 4, 3), nn.BatchNorm1d(4))
        )
        assert isinstance(network[1], nn.SyncBatchNorm)
        assert network.eval()(x).features.shape == (40, 4)
    finally:
        torch.distributed.destroy_process_group()


COPIES = ("aten::clone", "aten::contiguous", "aten::copy_", "aten::_to_copy", "aten::empty_like")


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the operators that make an array as large as one of the weights, and the weights that kernels get."""

    def __init__(self, sizes: set[int]) -> None:
        super().__init__()
        self.sizes, self.copies, self.weights = sizes, [], []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in COPIES and isinstance(out, torch.Tensor) and out.numel() in self.sizes:
            self.copies.append(name)
        if name == "sparseconv::gather_gemm":
            self.weights.append(args[1])
        return out


def test_no_layer_copies_its_weight() -> None:
    """Kernels get views of spconv's weights and read them by their strides; so does the backward pass.

    What is copied is the weight's gradient, once, by autograd: into the weight's own layout.
    """
    net = ours.SparseSequential(
        ours.SubMConv3d(5, 7, 3, indice_key="s"),
        ours.SparseConv3d(7, 11, 3, 2, 1, indice_key="d"),
        ours.SparseInverseConv3d(11, 3, 3, indice_key="d"),
        ours.SubMConv3d(3, 13, 1),
    )
    indices = torch.unique(torch.randint(0, 9, (300, 3)), dim=0)
    indices = torch.cat([torch.zeros(len(indices), 1, dtype=torch.int64), indices], 1).int()
    x = ours.SparseConvTensor(torch.randn(len(indices), 5, requires_grad=True), indices, [9, 9, 9], 1)
    with Watch({layer.weight.numel() for layer in net}) as watch:
        out = net(x).features.sum()
        assert not watch.copies
        out.backward()
    assert watch.copies == ["aten::copy_"] * 3
    storages = {layer.weight.untyped_storage().data_ptr() for layer in net}
    assert len(watch.weights) >= 3
    assert {w.untyped_storage().data_ptr() for w in watch.weights} <= storages
    assert not any(w.is_contiguous() for w in watch.weights)
