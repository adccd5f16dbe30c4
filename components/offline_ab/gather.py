"""From scored rows to the document of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.offline_ab.comparison import compare_metrics
from components.offline_ab.config import EvidenceConfig, Rule
from components.offline_ab.curves import curves
from components.offline_ab.document import Data, Decision, Evidence, RuleResult, Scorer, Settings
from components.offline_ab.off_policy import off_policy_values
from components.offline_ab.rows import TIME, ScoredRows
from components.offline_ab.rules import judge
from components.offline_ab.sample_ratio import sample_ratio
from models.tasks import TaskConfig
from models.tasks import outputs as outputs_of_chain


def gather_evidence(
    rows: ScoredRows,
    tasks: tuple[TaskConfig, ...],
    slices: Sequence[Sequence[str]],
    config: EvidenceConfig,
    *,
    baseline: Scorer | None,
    candidate: Scorer,
    source: str,
    not_compared: str | None = None,
    rules: Sequence[Rule] | None = None,
    links: Mapping[str, str] | None = None,
) -> Evidence:
    """Computes all that a comparison shows, and its verdict.

    Args:
      rows: scores of both sides; of the candidate alone where there is nothing to compare with.
      tasks: the chain.
      slices: columns to cut by.
      config: rules, confidence, replicates.
      baseline, candidate: who they are.
      source: where the rows are from.
      not_compared: why there is no baseline.
      rules: take the place of the configuration's.
      links: artifacts by name.
    """
    outputs = [o for o in outputs_of_chain(tasks) if o.name in rows.scores["candidate"]]
    metrics, slices_left_out = compare_metrics(rows, outputs, slices, config)
    arms = sample_ratio(rows, config.arm) if config.arm else None
    verdict: Decision
    judged: list[RuleResult] = []
    if baseline is None:
        verdict, reasons = "promote", [f"{not_compared or 'there is no baseline'}: the gates' absolute floors decide"]
    else:
        verdict, reasons, judged = judge(metrics, config, rules)
    if arms is not None and not arms.passed:
        found = ", ".join(f"{a.arm} {a.units:,}" for a in arms.arms)
        reasons.insert(
            0, f"the arms of column '{arms.column}' do not have their planned shares ({found} {arms.units}; p = "
            f"{arms.p_value:.2g}): the traffic or the logs are not to be trusted",
        )  # fmt: skip
        verdict = "keep"
    calibration, histograms, lift, delong = curves(rows, outputs, config.confidence)
    return Evidence(
        verdict=verdict,
        reasons=tuple(reasons),
        baseline=baseline,
        candidate=candidate,
        data=_data(rows, tasks, source),
        settings=Settings(
            confidence=config.confidence,
            replicates=config.replicates,
            seed=config.seed,
            minimum_users=config.minimum_users,
            minimum_positives=config.minimum_positives,
        ),
        rules=tuple(judged),
        metrics=tuple(metrics),
        slices_left_out=slices_left_out,
        calibration_curves=tuple(calibration),
        histograms=tuple(histograms),
        lift=tuple(lift),
        delong=tuple(delong),
        sample_ratio=arms,
        off_policy=tuple(off_policy_values(rows, outputs, config)),
        links=dict(links or {}),
    )


def _data(rows: ScoredRows, tasks: tuple[TaskConfig, ...], source: str) -> Data:
    times = rows.others.get(TIME, np.zeros(0))
    times = times[~np.isnan(times)]
    return Data(
        rows=len(rows),
        users=len(np.unique(rows.users)),
        requests=len(np.unique(rows.requests)),
        first_time_ms=int(times.min()) if len(times) else None,
        last_time_ms=int(times.max()) if len(times) else None,
        positives={t.label: int((rows.labels[t.label] == 1).sum()) for t in tasks},
        missing={t.label: int(np.isnan(rows.labels[t.label]).sum()) for t in tasks},
        source=source,
    )
