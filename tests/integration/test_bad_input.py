"""Input that cannot be used: one sentence, exit code 2, and nothing left behind."""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.integration.running import attempt


def black_png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, "png")
    return content.getvalue()


def write_parquet(folder: Path, labels: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        cells = [{"bytes": black_png(), "path": ""} for _ in labels]
        pq.write_table(pa.table({"img": cells, "label": labels}), folder / f"{split}-00000-of-00001.parquet")


CASES = {
    "eps in pixels": (["--eps", "8"], "attack.eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255, not 8"),
    "budget in pixels": (["--eps-x", "4"], "recipe.eps=4 is outside (0, 1]"),
    "budget of zero": (["--eps-x", "0"], "recipe.eps=0 is outside (0, 1]"),
    "negative epochs": (["--epochs", "-3"], "train.epochs=-3 must be at least 1"),
    "negative seed": (["--seeds", "-1"], "seed=-1 must be at least 0"),
    "lr that is no number": (["--lr", "nan"], "train.lr=nan is not a number"),
    "infinite lr": (["--lr", "inf"], "train.lr=inf is not finite"),
    "eps that is no number": (["--eps", "nan"], "attack.eps=nan is outside (0, 1]"),
    "beta of zero": (["--beta", "0"], "label.beta=0 must be above 0"),
    "not an amount": (["--eps", "8px"], "8px"),
    "not a whole number": (["--epochs", "three"], "--epochs"),
    "unknown recipe": (["--recipe", "R-MC-LAA"], "unknown recipe 'R-MC-LAA'; did you mean 'R-MC-LA'?"),
    "unknown model": (["--model", "wrn_28"], "unknown model 'wrn_28'; did you mean 'wrn_28_10'?"),
    "wide resnet of no depth": (["--model", "wrn_27_10"], "depth must be 6n + 4"),
    "unknown data set": (["--dataset", "cifar-10"], "unknown data set 'cifar-10'; did you mean 'cifar10'?"),
    "unknown option": (["--epoch", "3"], "--epochs"),
    "unknown schedule": (["--schedule", "cosin"], "did you mean 'cosine'?"),
    "no data folder named": (["--dataset", "cifar10"], "give it with --data-dir"),
    "data folder missing": (["--dataset", "cifar10", "--data-dir", "nowhere"], "'nowhere' does not exist"),
    "data folder empty": (["--dataset", "cifar10", "--data-dir", "empty"], "'empty' is empty"),
    "data folder of something else": (["--dataset", "svhn", "--data-dir", "other"], "other has neither"),
    "parquet cut short": (["--dataset", "cifar10", "--data-dir", "cut"], "truncated or damaged"),
    "labels out of range": (["--dataset", "cifar10", "--data-dir", "labels"], "train labels span 0..10"),
    "too many images asked for": (["--train-size", "9999"], "train_size=9999 must be in 1..1260"),
    "batch larger than train": (["--train-size", "32"], "train.batch_size=64 is larger than the 32"),
    "steps not rising": (["--steps", "5", "2"], "attack.steps=(5, 2)"),
    "the same seed twice": (["--seeds", "1", "1"], "duplicate trial"),
    "output below a file": (["--output", "other/file/sweep"], "is not a folder"),
    "output in use": (["--output", "other"], "other' is not empty"),
    "resume of no sweep": (["--resume", "other"], "no sweep there"),
    "resume of nothing": (["--resume", "nowhere"], "no sweep there"),
    "resume with a change": (["--resume", "other", "--epochs", "9"], "--epochs cannot be given with --resume"),
    "more workers than cores": (["--num-workers", "4096"], "this machine has"),
    "validation images that cannot be shared": (
        ["--val-size", "1", "--num-workers", "2"],
        "1 val images cannot be shared by 2 workers",
    ),
    "batch that cannot be shared": (
        ["--batch-size", "63", "--num-workers", "2"],
        "must be a multiple of the number of workers",
    ),
    "less than no verification": (["--verify", "-1"], "attack.verify=-1 must be at least 0"),
    "unknown end of a collapse": (["--on-collapse", "stopp"], "'stopp'; did you mean 'stop'?"),
}
NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(64)[:10])

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def net():
    return Net().eval()
"""
NET = ("nets:net", "--dataset", "digits")
EVALUATE_CASES = {
    "no model": ([], "name at least one MODEL"),
    "unknown suite": ([*NET, "--suite", "standart"], "unknown suite 'standart'; did you mean 'standard'?"),
    "unknown part of a suite": ([*NET, "--suite", "paper+quik"], "unknown suite 'quik'; did you mean 'quick'?"),
    "unknown checks": ([*NET, "--checks", "ful"], "unknown --checks 'ful'; did you mean 'full'?"),
    "unknown split": ([*NET, "--split", "train"], "unknown --split 'train'"),
    "unknown precision": ([*NET, "--precision", "float16"], "unknown --precision 'float16'; did you mean"),
    "unknown option": ([*NET, "--suit", "paper"], "--suit"),
    "eps in pixels": (
        [*NET, "--eps", "8"],
        "--eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255, not 8",
    ),
    "step in pixels": ([*NET, "--step-size", "2"], "--step-size=2 is outside (0, 1]"),
    "eps that is no number": ([*NET, "--eps", "nan"], "--eps=nan is outside (0, 1]"),
    "more images than there are": ([*NET, "--n", "9999"], "--n=9999 is more than the 397 images"),
    "no images": ([*NET, "--n", "0"], "--n=0 must be at least 1"),
    "no batch": ([*NET, "--batch-size", "0"], "--batch-size=0 must be at least 1"),
    "weights without a factory": (["other", "--weights", "w.pt"], "--weights applies to one package.module:factory"),
    "weights that are missing": ([*NET, "--weights", "w.safetensors"], "No such file"),
    "weights of something else": ([*NET, "--weights", "other/file"], "other/file' is not a plain state_dict"),
    "no data set": (["nets:net"], "name them with --dataset"),
    "unknown data set": (["nets:net", "--dataset", "digit"], "unknown data set 'digit'; did you mean 'digits'?"),
    "no data folder named": (["nets:net", "--dataset", "cifar10"], "give it with --data-dir"),
    "folder that is missing": (["nowhere"], "model 'nowhere' is not a folder, an MLflow URI"),
    "folder without a model": (["empty"], "no model in"),
    "module that is missing": (["netz:net"], "module 'netz' cannot be imported"),
    "factory that is missing": (["nets:nett"], "module 'nets' has no 'nett'"),
    "black box that is missing": ([*NET, "--transfer-from", "nowhere"], "model 'nowhere' is not a folder"),
    "output in use": ([*NET, "--output", "other"], "other' is not empty"),
    "output below a file": ([*NET, "--output", "other/file/out"], "is not a folder"),
    "resume of nothing": (["--resume", "nowhere"], "is not a valid evaluation folder"),
    "resume of something else": (["--resume", "other"], "is not a valid evaluation folder"),
    "resume with a model": (["nets:net", "--resume", "other"], "is not a valid evaluation folder"),
    "resume with a change": (["--resume", "other", "--n", "3"], "--n cannot be given with --resume"),
}
SCRIPTS = {"eps_budget.py": CASES, "evaluate.py": EVALUATE_CASES}


@pytest.mark.parametrize(("script", "case"), [(script, case) for script, cases in SCRIPTS.items() for case in cases])
def test_one_sentence_and_nothing_left_behind(
    script: str, case: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (empty / "nets.py").write_text(NETS)
    (empty / "empty").mkdir()
    (empty / "other").mkdir()
    (empty / "other" / "file").touch()
    write_parquet(empty / "labels", [0, 10])
    write_parquet(empty / "cut", [0, 1])
    cut = empty / "cut" / "train-00000-of-00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-40])
    before = sorted(empty.rglob("*"))

    arguments, sentence = SCRIPTS[script][case]
    code, said = attempt(monkeypatch, script, *arguments)

    assert code == 2
    assert sentence in said
    assert said.startswith("error: ")
    assert len(said.strip().splitlines()) == 1
    assert sorted(empty.rglob("*")) == before


def test_a_running_sweep_is_not_run_again(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bat_core.config import TrialConfig
    from sweeps.engine.storage.locks import exclusive
    from sweeps.engine.sweep.folder import SweepFolder
    from sweeps.engine.sweep.spec import Resources, Sweep, Trial

    folder = SweepFolder(empty / "sweep")
    trials = [Trial(id="one", config=TrialConfig())]
    folder.create(
        Sweep(name="eps_budget", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    )
    with exclusive(folder.path / ".lock"):
        code, said = attempt(monkeypatch, "eps_budget.py", "--resume", "sweep")
    assert code == 2
    assert "is already running" in said


OPTIONS = {
    "eps_budget.py": "dataset data-dir model epochs seeds output resume eps-x verify on-collapse",
    "evaluate.py": (
        "dataset data-dir split suite n eps step-size seed weights checks save-adversarial transfer-from precision"
        " batch-size workers address output resume"
    ),
    "mirror.py": "version debug",
}


@pytest.mark.parametrize("script", OPTIONS)
def test_help_names_every_option(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = attempt(monkeypatch, script, "--help")
    said = capsys.readouterr().out
    assert code == 0
    for option in OPTIONS[script].split():
        assert f"--{option}" in said
