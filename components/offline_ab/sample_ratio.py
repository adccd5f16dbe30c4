"""Sample-ratio mismatch: do the arms of an experiment have the traffic that was planned?"""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from components.offline_ab.config import ArmConfig
from components.offline_ab.document import Arm, SampleRatio
from components.offline_ab.rows import ScoredRows
from models.section import UserError


def sample_ratio(rows: ScoredRows, config: ArmConfig) -> SampleRatio:
    """Chi-square test of the arms' counts against the planned shares.

    Users are counted where each user has one arm, because arms are mostly drawn by user; else requests where each
    request has one arm, else rows. Rows without an arm do not count.

    Raises:
      UserError: where no row has an arm, there is one arm only, or an arm is not among the planned shares.
    """
    if rows.arms is None:
        raise UserError(f"evidence.arm.column: no row has a value in column '{config.column}'")
    indices = rows.arms.indices.to_numpy(zero_copy_only=False)
    present = ~np.isnan(indices) if indices.dtype.kind == "f" else np.ones(len(indices), bool)
    arm = indices[present].astype(np.int64)
    names = [str(n) for n in rows.arms.dictionary.to_pylist()]
    units, counts = "rows", np.bincount(arm, minlength=len(names))
    for kind, ids in (("users", rows.users), ("requests", rows.requests)):
        pairs = np.unique(np.stack([ids[present], arm.astype(np.uint64)]), axis=1)
        if len(np.unique(pairs[0])) == pairs.shape[1]:
            units, counts = kind, np.bincount(pairs[1].astype(np.int64), minlength=len(names))
            break
    found = {name: int(c) for name, c in zip(names, counts) if c}
    shares = config.shares or dict.fromkeys(sorted(found), 1.0)
    if unknown := sorted(set(found) - set(shares)):
        raise UserError(
            f"evidence.arm.shares: expected a share for every arm of column '{config.column}', found arm "
            f"'{unknown[0]}' besides {', '.join(shares)}"
        )
    if len(shares) < 2:
        raise UserError(f"evidence.arm: expected at least 2 arms in column '{config.column}', found {len(shares)}")
    total = sum(shares.values())
    observed = np.array([found.get(name, 0) for name in shares], np.float64)
    expected = np.array([share / total for share in shares.values()]) * observed.sum()
    statistic, p_value = chisquare(observed, expected)
    return SampleRatio(
        column=config.column,
        units=units,
        arms=tuple(
            Arm(arm=name, units=int(n), expected_share=share / total)
            for (name, share), n in zip(shares.items(), observed)
        ),
        statistic=float(statistic),
        p_value=float(p_value),
        limit=config.limit,
        passed=bool(p_value >= config.limit),
    )
