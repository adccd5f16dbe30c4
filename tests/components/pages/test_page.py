from html.parser import HTMLParser

from markupsafe import Markup

from components.pages import Banner, Cell, bar, cards, facts, figure, folded, paragraph, section, table, write

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Checked(HTMLParser):
    """Refuses tags that do not pair up, and notes the classes and whatever a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.classes: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.classes += (given.get("class") or "").split()
        self.fetched += [given[a] for a in ("src", "srcset", "data") if a in given] + [tag] * (
            tag in ("script", "link")
        )
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_whole_and_needs_nothing_else(tmp_path):
    parts = [
        Banner("Keep it", ["because", Markup("<b>so</b>")], "bad"),
        section(
            "Figures",
            table(
                ["name", "value"],
                [["a", Cell("1", "good", strong=True, hint="one")], ["b", bar(0.5, "2")]],
                numbers=[1],
            ),
            cards(figure(Markup("<svg></svg>"), "title", "caption"), figure(Markup("<svg></svg>"), wide=True)),
            facts({"rows": "3"}),
            paragraph("text", note=True),
            folded("more", paragraph("hidden")),
            note="how to read it",
        ),
    ]
    path = write(tmp_path / "new" / "page.html", "Title", "lead", parts)
    text = path.read_text()
    found = Checked(text)
    assert found.fetched == [] and "url(" not in text and "@import" not in text
    assert text.startswith("<!DOCTYPE html>") and "width=device-width" in text
    assert {"banner", "bad", "good", "strong", "n", "wide"} <= set(found.classes)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_text_is_escaped_everywhere(tmp_path):
    evil = "<script>alert('&')</script>"
    parts = [
        Banner(evil, [evil]),
        section(evil, table([evil], [[Cell(evil, hint=evil)]], caption=evil), note=evil),
        facts({evil: evil}), figure(Markup("<svg></svg>"), evil, evil), folded(evil, paragraph(evil)), bar(1, evil),
    ]  # fmt: skip
    text = write(tmp_path / "page.html", evil, evil, parts).read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") == 18
    Checked(text)


def test_numbers_are_aligned_and_columns_keep_their_order():
    text = table(["a", "b"], [["1", "2"]], numbers=[1], wrapped=[0])
    assert text.index('<th scope="col" class="wrap">a') < text.index('<th scope="col" class="n">b')
    assert '<td class="wrap">1</td><td class="n">2</td>' in text


def test_a_total_is_the_last_row_of_a_table():
    text = table(["a", "b"], [["x", "1"], ["y", "2"]], numbers=[1], total=["all", "3"])
    assert text.count("<tr>") == 4
    assert '<tfoot><tr><td>all</td><td class="n">3</td></tr></tfoot></table>' in text
    assert "<tfoot>" not in table(["a"], [["x"]])
