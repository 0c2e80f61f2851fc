"""The console's files: every text has its Spanish, nothing comes from elsewhere, nothing is put in as markup."""

from __future__ import annotations

import re

import pytest

from agent.http.files import SHARED
from fleet.alerts.rules import RULES
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
