"""Publication of a candidate, and the move of `stable` where it passed the gates."""

from components.promotion.component import Promotion
from components.promotion.verdict import Verdict, read_verdict

__all__ = ["Promotion", "Verdict", "read_verdict"]
