"""Input that a search cannot use: one sentence, exit code 2, nothing started and nothing left behind."""

from pathlib import Path

import pytest

from tests.integration.running import attempt

CASES = {
    "unknown space": (["--space", "bet"], "unknown space 'bet'; did you mean 'bat'?"),
    "unknown parameter": (["--set", "gama=3"], "unknown parameter 'gama'"),
    "empty range": (["--range", "beta=64:4"], "the range is empty, 64 is above 4"),
    "range outside": (["--range", "beta=4:6400"], "6400 is outside the space, beta is 2 to 128"),
    "contradiction": (["--set", "label=one-hot", "--range", "beta=4:64"], "'beta' is narrowed but cannot apply"),
    "budget in pixels": (["--set", "eps=8"], "recipe.eps=8 is outside (0, 1]"),
    "unknown option of a choice": (["--set", "target=fc"], "'fc' is outside the space"),
    "malformed": (["--set", "beta"], "--set name=value"),
    "unknown objective": (["--objective", "clean+speed"], "unknown measure 'speed'"),
    "a norm that is not verified": (
        ["--objective", "clean+robust-l2"],
        "aims at robust-l2, and trials are verified in linf alone: name l2 too, with --threat linf:8/255 l2:0.5",
    ),
    "two budgets": (["--threat", "linf:40/255", "l2:0.5", "--eps", "8/255"], "--eps cannot be given with --threat"),
    "resume in another norm": (["--resume", "nowhere", "--threat", "l2:0.5"], "--threat cannot be given with --resume"),
    "impossible floor": (["--objective", "robust-at-clean>=95"], "write 0.9 or 90%"),
    "unknown rule": (["--finalists", "1", "--rule", "best"], "--rule 'best' is unknown"),
    "unknown sampler": (["--sampler", "tpee"], "did you mean 'tpe'?"),
    "no trials": (["--num-trials", "0"], "--num-trials=0 must be at least 1"),
    "grace too long": (["--epochs", "4", "--grace", "4"], "must be below the 4 epochs of a trial"),
    "more at once than there is": (["--max-concurrent", "999"], "999 trials at once need 999 CPU cores"),
    "not verified": (["--verify", "0"], "a search optimises verified robustness"),
    "warm start from nothing": (["--warm-start", "nowhere"], "is not a search folder"),
    "resume of no search": (["--resume", "nowhere"], "no sweep there"),
    "resume with another space": (["--resume", "nowhere", "--space", "model"], "--space cannot be given with --resume"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    code, said = attempt(monkeypatch, "search.py", *arguments)
    assert code == 2
    assert said.startswith("error: ")
    assert words in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
