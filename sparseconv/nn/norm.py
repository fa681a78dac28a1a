# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of features: over all rows (BatchNorm), per row (LayerNorm), per sample (InstanceNorm, GroupNorm).

The layers subclass torch's, so their parameters, buffers and state dicts are torch's.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..tensor import SparseTensor
from ._layer import SparseLayer, check_channels, check_input, check_type
from .pool import sample_index


class BatchNorm(SparseLayer, nn.BatchNorm1d):
    """Batch normalisation over all rows of all samples; arguments as `torch.nn.BatchNorm1d`.

    In training, fewer than two rows carry no variance: the layer then uses its running statistics and leaves them
    unchanged (with track_running_stats=False a single row normalises to zero, so the bias comes out).
    Source: Ioffe and Szegedy, "Batch normalization" (2015).
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`; raises ValueError unless they are [N, num_features]."""
        x = check_input(self, x)
        check_channels(self, x.features, self.num_features)
        check_type(self, x.features, self.running_mean if self.weight is None else self.weight)
        return x.replace(self._normalize(x.features))

    def _normalize(self, features: Tensor) -> Tensor:  # [N, C]
        if (not self.training and self.running_mean is not None) or _at_least_two(features.shape[0]):
            return nn.BatchNorm1d.forward(self, features)
        if (
            self.running_mean is not None and not torch.compiler.is_compiling()
        ):  # as in evaluation, to the bit
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return self._normalize_any(features, lambda x: x)

    def _normalize_any(self, features: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        """Training for any number of rows; `total` sums a tensor over the processes.

        It does not branch on the number of rows: another process may hold some, a GPU would have to wait for it, and a
        compiled graph does not know it.
        """
        rows = functional.accumulation(features)
        sums = total(torch.cat([rows.sum(dim=0), rows.new_full((1,), rows.shape[0])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count.clamp(min=1)
        square = total((rows - mean).square().sum(dim=0))
        var = square / count.clamp(min=1)
        if self.running_mean is not None and self.running_var is not None:
            enough = count >= 2
            if self.training:
                self._update_running(mean.detach(), square.detach() / (count - 1).clamp(min=1), enough)
            mean = torch.where(enough, mean, self.running_mean.to(mean.dtype))
            var = torch.where(enough, var, self.running_var.to(var.dtype))
        out = (rows - mean) * torch.rsqrt(var + self.eps)
        return _affine(out, self.weight, self.bias).to(features.dtype)

    def _update_running(self, mean: Tensor, var: Tensor, enough: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(enough.to(self.num_batches_tracked.dtype))
            if self.momentum is None:
                step = 1.0 / self.num_batches_tracked.clamp(min=1).to(mean.dtype)
            else:
                step = torch.full_like(mean[:1], self.momentum)
            step = torch.where(enough, step, torch.zeros_like(step))
            self.running_mean.add_(step * (mean - self.running_mean))
            self.running_var.add_(step * (var - self.running_var))


class SyncBatchNorm(BatchNorm):
    """`BatchNorm` whose statistics cover the rows of every process in `process_group` (None: all processes).

    Works with every backend of `torch.distributed` on CPU and GPU, and with processes that hold no row; without an
    initialised process group, and in evaluation, it is `BatchNorm`. Fewer than two rows in all processes together use
    the running statistics. Arguments as `torch.nn.SyncBatchNorm`.
    """

    process_group: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group

    def _normalize(self, features: Tensor) -> Tensor:  # [N, C]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not (self.training and distributed and torch.distributed.get_world_size(self.process_group) > 1):
            return super()._normalize(features)
        return self._normalize_any(features, self._total)

    def _total(self, x: Tensor) -> Tensor:
        total: Tensor = _AllReduce.apply(x, self.process_group)  # type: ignore[no-untyped-call]
        return total


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """Turn every `BatchNorm` in `module` into a `SyncBatchNorm`, in place, and return the module.

    Parameters, buffers and hooks stay the same objects. Use this in place of
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm`, whose layers take plain tensors: they work inside our `Sequential`
    on a GPU, and raise anywhere else.
    """
    for layer in module.modules():
        if type(layer) is BatchNorm:
            object.__setattr__(layer, "__class__", SyncBatchNorm)
            layer.process_group = process_group
    return module


class LayerNorm(SparseLayer, nn.LayerNorm):
    """Normalise the channels of each row; arguments as `torch.nn.LayerNorm` (normalized_shape = C).

    Source: Ba et al., "Layer normalization" (2016).
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`; raises ValueError unless they are [N, C]."""
        x = check_input(self, x)
        if len(self.normalized_shape) != 1:
            raise ValueError(f"LayerNorm: normalized_shape must be the channels, got {self.normalized_shape}")
        check_channels(self, x.features, self.normalized_shape[0])
        check_type(self, x.features, self.weight)
        return x.replace(nn.LayerNorm.forward(self, x.features))


class InstanceNorm(SparseLayer, nn.InstanceNorm1d):
    """Normalise each channel over the rows of each sample; affine as in `torch.nn.InstanceNorm1d`.

    Source: Ulyanov et al., "Instance normalization" (2016).
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps=eps, affine=affine, device=device, dtype=dtype)

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`; raises ValueError unless they are [N, num_features]."""
        x = check_input(self, x)
        check_channels(self, x.features, self.num_features)
        rows, index = functional.accumulation(x.features), sample_index(x)
        centred = rows - _spread(functional.segment_mean(rows, index, x.batch_size), index)
        var = functional.segment_mean(centred.square(), index, x.batch_size)
        out = centred * _spread(torch.rsqrt(var + self.eps), index)
        return x.replace(_affine(out, self.weight, self.bias).to(x.features.dtype))


class GroupNorm(SparseLayer, nn.GroupNorm):
    """Normalise each group of channels over the rows of each sample; arguments as `torch.nn.GroupNorm`.

    Source: Wu and He, "Group normalization" (2018).
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`; raises ValueError unless they are [N, num_channels]."""
        x = check_input(self, x)
        check_channels(self, x.features, self.num_channels)
        rows, index = functional.accumulation(x.features), sample_index(x)
        groups = rows.view(rows.shape[0], self.num_groups, self.num_channels // self.num_groups)
        mean = functional.segment_mean(groups.mean(dim=2), index, x.batch_size)  # [batch, groups]
        centred = groups - _spread(mean, index).unsqueeze(2)
        var = functional.segment_mean(centred.square().mean(dim=2), index, x.batch_size)
        out = (centred * _spread(torch.rsqrt(var + self.eps), index).unsqueeze(2)).view_as(rows)
        return x.replace(_affine(out, self.weight, self.bias).to(x.features.dtype))


class _AllReduce(torch.autograd.Function):
    """Sum over processes; the gradient of a sum that every process uses is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


class _Spread(torch.autograd.Function):
    """Rows of a per-sample array, one per site; its gradient is a segment sum in fixed order (indexing's is not)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.n = values.shape[0]
        return values[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return functional.segment_sum(grads[0], index, ctx.n), None


def _spread(values: Tensor, index: Tensor) -> Tensor:  # [batch, C], [N] -> [N, C]
    out: Tensor = _Spread.apply(values, index)  # type: ignore[no-untyped-call]
    return out


def _at_least_two(n: int) -> bool:
    """n >= 2, or False where a compiled graph cannot know: after a layer that makes sites."""
    if not torch.compiler.is_compiling():
        return n >= 2
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # imports sympy: only where it is needed

    known: bool = guard_or_false(n >= 2)
    return known


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias
