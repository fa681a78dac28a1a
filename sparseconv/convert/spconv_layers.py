# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Our layers inside networks written for spconv.

Such a network makes spconv's tensors (`SparseConvTensor`, the wheel's or the drop-in's), reads `x.features`, calls
`x.replace_feature` and asks whether a module is a `SparseModule`. The layers here are ours, weights and maps included, and
take and return that tensor: of it they use `features`, `indices`, `spatial_shape`, `batch_size`, `indice_dict` and
`replace_feature`, which both have. What our side knows of a tensor (its sites with their kernel maps) rides along in
`indice_dict`, which spconv hands from tensor to tensor.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from ..nn.pool import Pool
from ..sites import Sites
from ..tensor import SparseTensor

# Our entries of `indice_dict`: the sites of index arrays, and the input sites of strided layers by their indice_key.
_SITES, _INPUTS = "sparseconv.sites", "sparseconv.inputs"


def sites_of(x: Any) -> Sites:
    """The sites of spconv's tensor `x`, checked where they are new: ValueError for duplicate rows or rows outside the shape."""
    known = x.indice_dict.get(_SITES, {}).get(id(x.indices))
    shape = tuple(int(size) for size in x.spatial_shape)
    if known is not None:
        indices, version, kept = known
        if indices is x.indices and version == indices._version and kept.spatial_shape == shape:
            return kept  # type: ignore[no-any-return]
    sites = Sites.checked(x.indices, 1, shape, int(x.batch_size))
    x.indice_dict[_SITES] = {**x.indice_dict.get(_SITES, {}), **_entry(x.indices, sites)}
    return sites


def _entry(indices: Any, sites: Sites) -> dict[int, Any]:
    """The array itself is kept, so that its id stays its own; its version tells whether it was written since."""
    return {id(indices): (indices, indices._version, sites)}


def _like(x: Any, out: SparseTensor, indices: Any) -> Any:
    """`out` as a tensor of x's kind, with index array `indices`."""
    y = x.replace_feature(out.features)
    if indices is not x.indices:
        y.indices = indices
        y.spatial_shape = [int(size) for size in out.spatial_shape or ()]
        y.indice_dict = dict(x.indice_dict)
        y.indice_dict[_SITES] = {**y.indice_dict.get(_SITES, {}), **_entry(indices, out.sites)}
    return y


class SpeaksSpconv(nn.Module):
    """Mixed into our convolutions and pooling layers: spconv's tensor in, spconv's tensor out; SparseTensors as before.

    Attributes: indice_key, under which a strided layer leaves its input sites for the inverse layer that takes them;
    origin, the spconv class and arguments that the layer came from (`convert.to_spconv` goes back by them).
    """

    indice_key: str | None
    origin: tuple[str, dict[str, Any]]

    def forward(self, x: Any, target: SparseTensor | None = None) -> Any:
        """Convolve or pool; ValueError where an inverse layer's partner has not run before."""
        if not hasattr(x, "indice_dict"):
            return super().forward(x, target)
        sites = sites_of(x)
        native = SparseTensor.on(sites, x.features)
        if getattr(self, "needs_target", False):
            partner = x.indice_dict.get(_INPUTS, {}).get(self.indice_key)
            if partner is None:
                raise ValueError(
                    f"{type(self).__name__}: no layer with indice_key={self.indice_key!r} has run before on this tensor"
                )
            indices, goal = partner
            out = super().forward(native, SparseTensor.on(goal, x.features.new_empty(len(goal), 0)))
            return _like(x, out, indices)
        out = super().forward(native)
        if out.sites is sites:
            return _like(x, out, x.indices)
        y = _like(x, out, out.coords)
        if self.indice_key is not None:
            y.indice_dict[_INPUTS] = {**y.indice_dict.get(_INPUTS, {}), self.indice_key: (x.indices, sites)}
        return y

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time: pickle and deepcopy are told how.
        return _blank, (type(self)._native, type(self)._marker), self.__dict__  # type: ignore[attr-defined]


class _FromZero(nn.Module):
    """spconv's maximum begins at zero: max(0, .), and a cell that holds only negative values gets 0."""

    def forward(self, x: Any, target: SparseTensor | None = None) -> Any:
        out = super().forward(x, target)
        return out.replace(out.features.relu())


@functools.cache
def adapted(native: Any, marker: Any) -> Any:
    """The class of layers of class `native` that speak spconv.

    `marker`, a class or None, is spconv's SparseModule: its containers and networks ask for it.
    """
    bases: tuple[type, ...] = (SpeaksSpconv,)
    if issubclass(native, Pool) and native.__name__.startswith("Max"):
        bases += (_FromZero,)
    bases += (native,) if marker is None else (native, marker)
    return type(
        native.__name__,
        bases,
        {"__module__": __name__, "_native": native, "_marker": marker, "__doc__": native.__doc__},
    )


def _blank(native: Any, marker: Any) -> Any:
    cls = adapted(native, marker)
    return cls.__new__(cls)
