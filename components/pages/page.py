"""The layout of a page: head with styles, a banner with the verdict, sections, tables, figures.

Every function gives HTML (`Markup`); text that is put in is escaped. A page is read on a wide screen, in a narrow
window and on paper: tables scroll sideways by themselves, figures stand in as many columns as fit, nothing else
is wider than the window.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup

Tone = Literal["good", "bad", "doubt", "plain"]
"""What something means for the reader: better, worse, cannot be told, or neither."""
INK: dict[Tone, str] = {"good": "#0b6e4f", "bad": "#b3261e", "doubt": "#7a5200", "plain": "#5c6570"}
"""Colour of a tone."""

STYLE = """
:root { --ink: #1a1d21; --soft: #5c6570; --line: #d9dde2; --paper: #fff; --shade: #f5f6f8;
  --good: #0b6e4f; --good-shade: #e6f4ee; --bad: #b3261e; --bad-shade: #fcebea; --doubt: #7a5200;
  --doubt-shade: #fdf3dc; color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
p { margin: .4rem 0; max-width: 52rem; }
.lead, .note, figcaption, caption, .unit { color: var(--soft); }
.lead { margin-bottom: 1rem; }
.note, figcaption, caption { font-size: .87rem; }
a { color: #0057a8; overflow-wrap: anywhere; }
code { font: .9em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.banner { border: 1px solid; border-left-width: .45rem; border-radius: .3rem; padding: .7rem 1rem; margin: 1rem 0; }
.banner strong { display: block; font-size: 1.2rem; line-height: 1.3; }
.banner ul { margin: .4rem 0 0; padding-left: 1.2rem; color: var(--ink); }
.banner.good { border-color: var(--good); background: var(--good-shade); }
.banner.bad { border-color: var(--bad); background: var(--bad-shade); }
.banner.doubt { border-color: var(--doubt); background: var(--doubt-shade); }
.banner.plain { border-color: var(--soft); background: var(--shade); }
.good { color: var(--good); } .bad { color: var(--bad); } .doubt { color: var(--doubt); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .6rem 0; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: middle; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.wrap { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
td.strong, tfoot td { font-weight: 600; }
tfoot td { border-top: 1px solid var(--ink); }
td .bar { display: inline-block; height: .7em; background: #9db4c8; margin-right: .5em; min-width: 1px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr));
  gap: 1.2rem; margin: .8rem 0; }
figure { margin: 0; max-width: 30rem; break-inside: avoid; }
figure.wide { max-width: 44rem; }
svg { display: block; width: 100%; height: auto; }
svg.strip { display: inline-block; width: 8rem; height: 1.1rem; vertical-align: middle; }
svg text { font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .85rem; margin: .3rem 0; padding: 0;
  list-style: none; }
.legend svg { display: inline-block; width: 1.6rem; height: .8rem; margin-right: .35rem; vertical-align: middle; }
details { margin: .6rem 0; } summary { cursor: pointer; color: #0057a8; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--shade); padding: .6rem; font-size: .82rem; }
@media (max-width: 34rem) {
  body { font-size: 14px; } main { padding: 1rem .75rem 2rem; } h1 { font-size: 1.25rem; }
  svg.strip { width: 6.5rem; } th, td { padding-right: .5rem; } td.wrap { min-width: 9rem; }
  dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: .35rem; }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } tr, .banner { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 7.8pt; } th, td { padding: .15rem .45rem .15rem 0; } svg.strip { width: 7rem; }
  .cards { grid-template-columns: repeat(2, 1fr); } a { color: inherit; text-decoration: none; }
}
"""


@dataclass(frozen=True)
class Banner:
    """What a reader must know first.

    Attributes:
      headline: the verdict in a sentence.
      reasons: why, a line each.
      tone: decides the colour.
    """

    headline: str
    reasons: Sequence[str | Markup] = ()
    tone: Tone = "plain"

    def __html__(self) -> str:
        reasons = Markup("").join(Markup("<li>{}</li>").format(r) for r in self.reasons)
        listed = Markup("<ul>{}</ul>").format(reasons) if reasons else ""
        return Markup('<div class="banner {}"><strong>{}</strong>{}</div>').format(self.tone, self.headline, listed)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      value: text or HTML.
      tone: decides the colour.
      strong: in bold.
      hint: shown when the pointer rests on it.
    """

    value: str | Markup
    tone: Tone = "plain"
    strong: bool = False
    hint: str = ""


def render(title: str, lead: str | Markup, parts: Iterable[Markup | Banner], *, language: str = "en") -> str:
    """The text of a page.

    Args:
      title: of the page and its first heading.
      lead: a sentence under the title: what was looked at, and when.
      parts: banner, sections and figures in their order.
    """
    return Markup(
        '<!DOCTYPE html>\n<html lang="{}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n"
        '<h1>{}</h1>\n<p class="lead">{}</p>\n{}\n</main>\n</body>\n</html>\n'
    ).format(language, title, Markup(STYLE), title, lead, Markup("\n").join(parts))


def write(
    path: Path, title: str, lead: str | Markup, parts: Iterable[Markup | Banner], *, language: str = "en"
) -> Path:
    """Writes a page; the file appears whole or not at all. Arguments as for `render`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(render(title, lead, parts, language=language), encoding="utf-8")
    os.replace(aside, path)
    return path


def section(title: str, *parts: Markup | Banner, note: str | Markup = "") -> Markup:
    """A heading, a line that says how to read what follows, and what follows."""
    said = Markup('<p class="note">{}</p>').format(note) if note else ""
    return Markup("<section>\n<h2>{}</h2>\n{}{}\n</section>").format(title, said, Markup("\n").join(parts))


def paragraph(text: str | Markup, *, note: bool = False) -> Markup:
    return Markup("<p{}>{}</p>").format(Markup(' class="note"') if note else "", text)


def facts(values: Mapping[str, str | Markup]) -> Markup:
    """Names and their values, one below the other."""
    rows = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(k, v) for k, v in values.items())
    return Markup('<dl class="facts">{}</dl>').format(rows)


def table(
    columns: Sequence[str | Markup],
    rows: Iterable[Sequence[Cell | str | Markup]],
    *,
    numbers: Iterable[int] = (),
    wrapped: Iterable[int] = (),
    caption: str = "",
    total: Sequence[Cell | str | Markup] = (),
) -> Markup:
    """A table that scrolls sideways where the window is narrower than it.

    Args:
      columns: headings.
      rows: cells, as many as there are columns.
      numbers: places of the columns that are aligned right.
      wrapped: places of the columns whose long text is broken.
      caption: what the table shows.
      total: cells of a last row that sums the others up; none by default.
    """
    right, broken = set(numbers), set(wrapped)

    def classes(i: int, cell: Cell | None = None) -> Markup:
        names = ["n"] * (i in right) + ["wrap"] * (i in broken)
        if cell is not None:
            names += [cell.tone] * (cell.tone != "plain") + ["strong"] * cell.strong
        return Markup(' class="{}"').format(" ".join(names)) if names else Markup("")

    def shown(i: int, value: Cell | str | Markup) -> Markup:
        cell = value if isinstance(value, Cell) else Cell(value)
        hint = Markup(' title="{}"').format(cell.hint) if cell.hint else ""
        return Markup("<td{}{}>{}</td>").format(classes(i, cell), hint, cell.value)

    def cells(row: Sequence[Cell | str | Markup]) -> Markup:
        return Markup("<tr>{}</tr>").format(Markup("").join(shown(i, c) for i, c in enumerate(row)))

    head = Markup("").join(Markup('<th scope="col"{}>{}</th>').format(classes(i), c) for i, c in enumerate(columns))
    body = Markup("\n").join(cells(row) for row in rows)
    foot = Markup("<tfoot>{}</tfoot>").format(cells(total)) if total else ""
    said = Markup("<caption>{}</caption>").format(caption) if caption else ""
    return Markup('<div class="scroll"><table>{}<thead><tr>{}</tr></thead>\n<tbody>{}</tbody>{}</table></div>').format(
        said, head, body, foot
    )


def figure(picture: Markup, title: str = "", caption: str | Markup = "", *, wide: bool = False) -> Markup:
    """A chart with its title above and its explanation below."""
    above = Markup("<h3>{}</h3>").format(title) if title else ""
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup("<figure{}>{}{}{}</figure>").format(Markup(' class="wide"') if wide else "", above, picture, below)


def cards(*figures: Markup) -> Markup:
    """Figures beside each other, as many as fit."""
    return Markup('<div class="cards">{}</div>').format(Markup("\n").join(figures))


def folded(title: str, *parts: Markup) -> Markup:
    """What most readers skip, behind a line that opens it."""
    return Markup("<details><summary>{}</summary>{}</details>").format(title, Markup("\n").join(parts))


def bar(share: float, text: str) -> Markup:
    """A bar of a length in [0, 1] before a text, for a cell."""
    return Markup('<span class="bar" style="width:{:.2f}em"></span>{}').format(4 * min(max(share, 0.0), 1.0), text)
