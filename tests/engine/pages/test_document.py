"""report.html: whatever a folder says is text in it, it needs nothing else, and no number changes its kind."""

import re
from html.parser import HTMLParser

import pytest

from sweeps.engine.pages.charts import Chart, Mark, Series, percent_axis, rows_chart, steps_axis
from sweeps.engine.pages.document import Cell, Commands, Facts, Heat, Notes, Page, Picture, Pictures, Table, render

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=a(1)>',
    "' onmouseover='alert(1)",
    "</title></style></script><b>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt; \u2028 \u202e",
    "]]><!--",
]


class Seen(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def page_of(text):
    """A page with a text in every place that takes one."""
    marks = [Mark(0.2, 0.5, text, 0.4, 0.6), Mark(0.4, 0.7, text)]
    series = [Series(name=text, marks=marks, line=True), Series(name=text, marks=marks, hollow=True)]
    axis = percent_axis(text, [0.2, 0.7])
    return Page(
        title=text,
        question=text,
        answer=text,
        version=text,
        sections=[
            Chart(heading=text, x=axis, y=axis, series=series, note=text),
            rows_chart(text, text, series, [text, text], text),
            Table(heading=text, columns=[text], rows=[[text], [Cell(text, 0.5, text)]], note=text),
            Heat(heading=text, corner=text, columns=[text], rows=[(text, [(0.5, text)]), (text, [None])], note=text),
            Facts(heading=text, pairs=[(text, text)], note=text),
            Commands(heading=text, pairs=[(text, text)], note=text),
            Notes(heading=text, note=text),
            Pictures(heading=text, rows=[(text, [Picture(png=b"\x89PNG", alt=text, caption=text)])], note=text),
        ],
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_a_text_wherever_it_is(text):
    plain, hostile = Seen(render(page_of("plain"))), Seen(render(page_of(text)))
    assert hostile.tags == plain.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(tag, name) for tag, name, _ in plain.attributes]
    assert not [name for _, name, _ in hostile.attributes if name.startswith("on")]
    assert "".join(hostile.texts).count(text) == "".join(plain.texts).count("plain")


def test_a_page_needs_nothing_else_and_runs_only_its_own_script():
    text = render(page_of("plain"))
    seen = Seen(text)
    assert seen.tags.count("script") == 1
    assert not {"link", "iframe", "object", "base", "form"} & set(seen.tags)
    addresses = [value for _, name, value in seen.attributes if name in {"src", "href", "action", "srcset"}]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    (policy,) = [value for _, name, value in seen.attributes if name == "content" and "default-src" in value]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    assert "http" not in re.sub(r'http-equiv|"[^"]*default-src[^"]*"', "", text)


def test_the_policys_digest_is_that_of_the_script():
    import base64
    import hashlib

    text = render(page_of("plain"))
    script = text[text.index("<script>") + 8 : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text.replace("&#43;", "+").replace("&#x2B;", "+")


def test_equal_pages_are_equal_and_passwords_are_hidden():
    assert render(page_of("a")) == render(page_of("a"))
    text = render(page_of("s3://me:secret@host/b and <b>a@b</b>"))
    assert "secret" not in text
    assert Seen(text).tags == Seen(render(page_of("a"))).tags


def test_axes_hold_all_values_in_order():
    axis = percent_axis("a", [0.31, 0.78])
    assert (axis.low, axis.high) == (pytest.approx(0.3), pytest.approx(0.8))
    assert axis.share(0.3) == pytest.approx(0)
    assert axis.share(0.31) < axis.share(0.78) <= 1
    steps = steps_axis("s", [1, 2, 5, 100])
    assert (steps.share(1), steps.share(100), steps.share(10)) == (0, 1, pytest.approx(0.5))
    assert percent_axis("one", [0.0]).share(0.0) == 0
    assert steps_axis("one", [7]).share(7) == 0


def test_only_named_columns_without_a_value_are_left_out():
    rows = [[Cell("a"), Cell("-"), Cell("-"), "-"], [Cell("b"), Cell("-"), Cell("3", 3.0), "-"]]
    table = Table(heading="t", columns=["name", "kept", "filled", "words"], rows=rows)
    assert table.without_empty(["filled", "words"]).columns == ["name", "kept", "filled", "words"]
    shorter = table.without_empty(["kept", "filled"])
    assert shorter.columns == ["name", "filled", "words"]
    assert shorter.rows == [[Cell("a"), Cell("-"), "-"], [Cell("b"), Cell("3", 3.0), "-"]]


def test_what_all_rows_share_is_said_in_the_note():
    rows = [[Cell("a"), "fast", Cell("5", 5.0), Cell("-")], [Cell("b"), "fast", Cell("5", 5.0), Cell("-")]]
    table = Table(heading="t", columns=["name", "suite", "n", "seed"], rows=rows, note="Note.")
    shorter = table.without_common(["name", "suite", "n", "seed"])
    assert (shorter.columns, shorter.rows) == (["name"], [[Cell("a")], [Cell("b")]])
    assert shorter.note == "The same for all: suite fast, n 5. Note."
    assert table.without_common(["suite"]).columns == ["name", "n", "seed"]
    assert table.without_common(["seed"]).note == "Note."
    alone = Table(heading="t", columns=["name", "suite"], rows=[["a", "fast"]])
    assert alone.without_common(["suite"]) == alone
