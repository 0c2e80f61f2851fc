"""The console's files: every text has its Spanish, nothing comes from elsewhere, nothing is put in as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count

import pytest

from agent.http.files import SHARED
from fleet.alerts.rules import RULES, Facts, Stream
from fleet.console import STATIC

pytestmark = pytest.mark.unit

FILES = {file.name: file.read_text(encoding="utf-8") for folder in (STATIC, SHARED) for file in folder.iterdir()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js") and (STATIC / name).exists() and name != "es.js"}
SPANISH = set(re.findall(r'(?:"((?:[^"\\]|\\.)+)"|\b(\w+)):\s+"', FILES["es.js"].replace("\n    ", " ")))
KEYS = {quoted or word for quoted, word in SPANISH}


def test_every_text_has_its_spanish() -> None:
    called = {text for script in SCRIPTS.values() for text in re.findall(r'\bt\(\s*"([^"]*)"', script)}
    tables = {text for script in SCRIPTS.values() for text in re.findall(r'(?:text|todo|why): "([^"]+)"', script)}
    pages = {text for name, page in FILES.items() if name.endswith(".html") for text in re.findall(r'data-text="([^"]*)"', page)}
    assert len(called) > 200
    assert sorted((called | tables | pages) - KEYS) == []


def test_every_rule_is_explained() -> None:
    assert set(re.findall(r"^  (\w+): {", FILES["rules.js"], re.MULTILINE)) == set(RULES)


def test_what_alerts_say_has_its_spanish() -> None:
    slow, limits = Stream("door", "running", "", "", 0.2), {"temperature_c": 96.0, "outbox_oldest_s": 900.5, "disk_percent": 97.0}
    wrong = Facts(
        "cam", "offline", 5.0, limits, (slow,), 90.0, lost=3, missing=4, certificates={"": 80000.0, "door": 1.0}, down={"vision": ""}
    )
    found = [
        one.detail
        for rule in RULES.values()
        for facts in (wrong, replace(wrong, clock_at=-9e4))
        for one in rule.check(facts, rule.limits, bool)
    ]
    assert len(set(found)) == 12
    assert {placed(detail) for detail in found} <= KEYS


def placed(text: str) -> str:
    """With {0}, {1} … for its numbers, as the console looks it up."""
    numbers = count()
    return re.sub(r"\d+(?:\.\d+)?", lambda _number: f"{{{next(numbers)}}}", text)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_needs_nobody_else_and_makes_no_markup(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/2000/svg", "")
    assert "://" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(| style=|onclick=", text)
    assert len(text.splitlines()) < 400


def test_placeholders_are_the_same_in_both_languages() -> None:
    pairs = re.findall(r'"((?:[^"\\]|\\.)*)":\s+"((?:[^"\\]|\\.)*)"', FILES["es.js"])
    assert len(pairs) > 200
    assert [
        (english, spanish) for english, spanish in pairs if sorted(re.findall(r"{\w+}", english)) != sorted(re.findall(r"{\w+}", spanish))
    ] == []
