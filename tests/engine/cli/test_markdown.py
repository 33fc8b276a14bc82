"""Nothing that a file brings along becomes a link, HTML or the structure of a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.cli.markdown import Markup, code, document, escaped, harmless, pipe_table

EVIL = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JavaScript :alert(1))",
    "![x](http://evil.example/pixel.png)",
    "<javascript:alert(1)>",
    "a | b",
    "`a` `",
    "a\n\n# b",
    "<!-- x",
    "[x]: javascript:alert(1)",
    "<br>",
)


@pytest.mark.parametrize("text", EVIL)
def test_a_cell_is_text(text):
    table = pipe_table(("name", "value"), [(text, "1")])
    lines = table.splitlines()
    assert len(lines) == 3
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3
    assert "<" not in lines[2]
    assert "](" not in lines[2]
    assert not re.search(r"(?i)javascript\s*:", lines[2])
    assert not re.search(r"(?<!\\)`", lines[2])


@pytest.mark.parametrize("text", EVIL)
def test_a_paragraph_has_no_html_and_no_link(text):
    made = document(["# Title", f"The space {text}: so it is.", "![figure](pareto.png)"])
    assert "](" not in made.replace("![figure](pareto.png)", "")
    assert "<" not in made.replace("<br>", "")
    assert not re.search(r"(?i)javascript\s*:", made)
    assert made.endswith("![figure](pareto.png)\n")


@given(st.text("<>[]()|`:\\ab\n", max_size=40))
def test_whatever_the_text_is(text):
    (_, _, line) = pipe_table(("a",), [(text,)]).splitlines()
    assert "<" not in line
    assert "](" not in line
    assert harmless(harmless(text)) == harmless(text)


def test_our_own_markup_and_plain_words_stay_as_they_are():
    cells = (Markup("**97.2** ±1.0<br>96.1 (+1.1)"), "45.5% [38.8-52.4]", "R-MC-LA+", "a_b * c > 0 & d", code("x"))
    line = pipe_table([str(number) for number in range(5)], [cells]).splitlines()[2]
    assert line == "| **97.2** ±1.0<br>96.1 (+1.1) | 45.5% [38.8-52.4] | R-MC-LA+ | a_b * c > 0 & d | `x` |"
    assert escaped("two  words") == "two words"
    assert code("a`b|c") == "`a'b\\|c`"
