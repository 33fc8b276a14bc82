"""CONTRIBUTING, README and the notebook: their code runs, and their terms are explained before they are used."""

import re
import tomllib

import pytest
import torch
import yaml

from bat_core.attacks.base import ATTACKS
from tests.contract.imports import ROOT

README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_attack_in_contributing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    (program,) = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    made: dict[str, object] = {"__name__": "uniform_noise"}
    exec(program, made)
    attack = ATTACKS.find("uniform_noise")[0](eps=8 / 255)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_adv = attack(lambda images: images.flatten(1)[:, :3], x, torch.zeros(4, dtype=torch.long))
    assert 0 < (x_adv - x).abs().max() <= 8 / 255


def test_the_readme_is_short_and_explains_its_terms_before_it_uses_them() -> None:
    assert len(README.splitlines()) < 120
    for term in ("R-MC-LA", "beta"):
        first = next(line for line in README.splitlines() if re.search(rf"\b{re.escape(term)}\b", line))
        assert first.startswith(f"* **{term}**"), first
    assert {"make figure-1", "make test", "make test-all"} <= set(re.findall(r"make [\w-]+", README))


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(path: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / path).read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_citation_names_the_project_and_its_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["title"], citation["license"]) == (project["name"], project["license"])
    assert citation["repository-code"] == project["urls"]["Homepage"]
    assert "Bilateral Adversarial Training" in citation["preferred-citation"]["title"]


def test_the_site_has_every_page_of_the_documentation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"[\w-]+\.md", nav)) == pages
