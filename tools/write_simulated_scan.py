# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: write_simulated_scan.py FILE.bin. Writes one simulated sweep as float32 x y z remission, the format of KITTI's scans."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sparseconv.datasets import simulate_scan

scan = simulate_scan(0)
columns = np.column_stack([scan.points, scan.attributes["remission"]]).astype("<f4")
target = Path(sys.argv[1])
aside = target.with_suffix(".part")
columns.tofile(aside)
aside.replace(target)
