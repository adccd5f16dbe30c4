"""Building blocks of the HTML pages that reports are: one self-contained file each, without scripts or network."""

from components.pages.charts import Series, interval_strip, legend, line_chart, scatter_chart
from components.pages.page import (
    Banner,
    Cell,
    Tone,
    bar,
    cards,
    facts,
    figure,
    folded,
    paragraph,
    section,
    table,
    write,
)

__all__ = [
    "Banner",
    "Cell",
    "Series",
    "Tone",
    "bar",
    "cards",
    "facts",
    "figure",
    "folded",
    "interval_strip",
    "legend",
    "line_chart",
    "paragraph",
    "scatter_chart",
    "section",
    "table",
    "write",
]
