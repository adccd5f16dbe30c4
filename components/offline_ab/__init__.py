"""Offline A/B test: two scorers on the same rows, with intervals, and the rules that decide."""

from components.offline_ab.component import OfflineABTest
from components.offline_ab.config import EvidenceConfig, Rule, check_evidence
from components.offline_ab.document import Evidence, read_evidence

__all__ = ["Evidence", "EvidenceConfig", "OfflineABTest", "Rule", "check_evidence", "read_evidence"]
