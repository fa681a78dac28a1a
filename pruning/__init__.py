# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning that makes sparse convolutional networks measurably faster.

A pruning run is four choices that combine freely: a granularity (what a unit is), a criterion (how important a unit is), a ratio
(how many go, and where) and a schedule (in how many goes).

    plan = make_plan(model, scans, granularity=Channels(), criterion=Taylor(), ratio=Macs(0.5), loss=loss)
    smaller = plan.apply(model)
"""

from .analysis import Analysis, Layer, analyze
from .criteria import Context, Criterion, Loss, Magnitude, Random
from .criteria_activations import ActivationNorm, APoZ, Wanda
from .criteria_gradients import OBD, Taylor
from .finetune import HeldMasks, distilled, fine_tune
from .granularity import NM, Channels, FineGrained, Granularity, Kernels, Offsets, Vectors
from .make_plan import make_plan
from .nm import NMLayer, NMReport, to_nm
from .nm_training import SRSTE, sparse_training
from .obs import OBS
from .permute import Permuted, permute_channels
from .plan import Entry, Plan, Step
from .points import Points
from .profile import Profile, profile
from .ratios import Global, Macs, PerLayer, Ratio, Uniform
from .regression import Lasso, ThiNet
from .regularize import NormScale, group_penalty, l1_penalty, l2_penalty, slimming_penalty
from .report import Report
from .schedules import Cubic, Iterative, OneShot, Schedule, prune
from .sensitivity import Sensitivity, sensitivity_scan
from .storage import load, save
from .units import Member, Units

__all__ = [
    "NM",
    "OBD",
    "OBS",
    "SRSTE",
    "APoZ",
    "ActivationNorm",
    "Analysis",
    "Channels",
    "Context",
    "Criterion",
    "Cubic",
    "Entry",
    "FineGrained",
    "Global",
    "Granularity",
    "HeldMasks",
    "Iterative",
    "Kernels",
    "Lasso",
    "Layer",
    "Loss",
    "Macs",
    "Magnitude",
    "Member",
    "NMLayer",
    "NMReport",
    "NormScale",
    "Offsets",
    "OneShot",
    "PerLayer",
    "Permuted",
    "Plan",
    "Points",
    "Profile",
    "Random",
    "Ratio",
    "Report",
    "Schedule",
    "Sensitivity",
    "Step",
    "Taylor",
    "ThiNet",
    "Uniform",
    "Units",
    "Vectors",
    "Wanda",
    "analyze",
    "distilled",
    "fine_tune",
    "group_penalty",
    "l1_penalty",
    "l2_penalty",
    "load",
    "make_plan",
    "permute_channels",
    "profile",
    "prune",
    "save",
    "sensitivity_scan",
    "slimming_penalty",
    "sparse_training",
    "to_nm",
]
