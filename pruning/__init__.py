# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning that makes sparse convolutional networks measurably faster.

A pruning run is four choices that combine freely: a granularity (what a unit is), a criterion (how important a unit is), a ratio
(how many go, and where) and a schedule (in how many goes).

    plan = make_plan(model, scans, granularity=Channels(), criterion=Taylor(), ratio=Macs(0.5), loss=loss)
    smaller = plan.apply(model)
"""

from .analysis import Analysis, Layer, analyze
from .criteria import Context, Criterion, Magnitude, Random
from .criteria_activations import ActivationNorm, APoZ, Wanda
from .criteria_gradients import OBD, Taylor
from .granularity import NM, Channels, FineGrained, Granularity, Kernels, Offsets, Vectors
from .make_plan import make_plan
from .obs import OBS
from .plan import Entry, Plan, Step
from .points import Points
from .ratios import Global, Macs, PerLayer, Ratio, Uniform
from .regression import Lasso, ThiNet
from .regularize import NormScale, group_penalty, l1_penalty, l2_penalty, slimming_penalty
from .units import Member, Units

__all__ = [
    "NM",
    "OBD",
    "OBS",
    "APoZ",
    "ActivationNorm",
    "Analysis",
    "Channels",
    "Context",
    "Criterion",
    "Entry",
    "FineGrained",
    "Global",
    "Granularity",
    "Kernels",
    "Lasso",
    "Layer",
    "Macs",
    "Magnitude",
    "Member",
    "NormScale",
    "Offsets",
    "PerLayer",
    "Plan",
    "Points",
    "Random",
    "Ratio",
    "Step",
    "Taylor",
    "ThiNet",
    "Uniform",
    "Units",
    "Vectors",
    "Wanda",
    "analyze",
    "group_penalty",
    "l1_penalty",
    "l2_penalty",
    "make_plan",
    "slimming_penalty",
]
