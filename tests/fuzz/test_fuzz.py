"""Spoilt inputs, 10,000 for each reader: of each comes our own clear error, or a sound value, and nothing else."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.data.parquet import read_split
from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.suites import get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.records import RECORD, Record, read_events, read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from tests.engine.evaluation.evaluations import drawn
from tests.fuzz.mutations import generators, spoilt_bytes, spoilt_value
from tests.unit import shards

LONGEST = 2000  # characters that an error may have


def refused_or(read: Callable[[], Any]) -> Any:
    """What was read; None where it was refused in a sentence that a terminal can show."""
    try:
        return read()
    except InputError as error:
        said = str(error)
        assert 0 < len(said) < LONGEST
        assert "\n" not in said
        return None


@pytest.fixture(params=[500, pytest.param(10_000, marks=pytest.mark.slow)])
def inputs(request: pytest.FixtureRequest) -> int:
    """How many are read."""
    return request.param


def survive(inputs: int, read: Callable[[Any], Any], made: Callable[[Any], Any]) -> tuple[float, float]:
    """Read so many inputs. Returns the share that was refused, and that which was not."""
    refused = taken = 0
    for number, draw in enumerate(generators(inputs)):
        value = made(draw)
        try:
            result = refused_or(lambda value=value: read(value))
        except Exception as error:
            raise AssertionError(f"input {number} ends in {type(error).__name__}: {error}") from error
        refused, taken = refused + (result is None), taken + (result is not None)
    return refused / inputs, taken / inputs


TRIAL = Trial(id="a", config=TrialConfig(), point={"eps": 0.1, "target": "mc", "random_start": True})
SWEEP = Sweep(
    name="s",
    command="python x",
    data_dir=None,
    pixel=5 / 255,
    resources=Resources(),
    trials=(TRIAL, Trial(id="b", config=TrialConfig(seed=1))),
)


@pytest.mark.parametrize("valid", [TrialConfig(), SWEEP], ids=["a trial's config", "a sweep"])
class TestConfig:
    def test_values(self, valid: TrialConfig | Sweep, inputs: int) -> None:
        plain = to_dict(valid)

        def read(value: Any) -> Any:
            config = from_dict(type(valid), value)
            assert from_dict(type(valid), json.loads(json.dumps(to_dict(config)))) == config
            for one in [config] if isinstance(config, TrialConfig) else [trial.config for trial in config.trials]:
                assert len(one.hash) == 12
            return config

        refused, taken = survive(inputs, read, lambda draw: spoilt_value(plain, draw))
        assert refused > 0.5
        assert taken > 0.01

    def test_text(self, valid: TrialConfig | Sweep, inputs: int) -> None:
        text = json.dumps(to_dict(valid)).encode()
        refused, taken = survive(
            inputs, lambda content: from_dict(type(valid), read_json(content)), lambda draw: spoilt_bytes(text, draw)
        )
        assert refused > 0.5
        assert taken > 0.01


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: 10,000 files on a disk take a minute."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def test_records(tmpfs: Path, inputs: int) -> None:
    """No record is refused: what can be read of it stays readable, in its order."""
    record = Record(tmpfs)
    record.append("start", hash="x", config={})
    numbers = dict.fromkeys(("lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc", "seconds"), 0.5)
    for epoch in (1, 2):
        record.append("epoch", epoch=epoch, **numbers)
    record.append("attack", done=4, of=9)
    record.append("failed", reason="RuntimeError: x")
    record.append("start")
    record.append("finished", clean_acc=0.5, robust_acc=0.25, robust_n=8, n=8, suite="s", verdict="clear", flags=[])
    sound = record.path.read_bytes()
    originals = sound.splitlines()

    def read(content: bytes) -> Any:
        (tmpfs / "new").write_bytes(content)
        (tmpfs / "new").replace(tmpfs / RECORD)  # another file: a status is kept for as long as its file is the same
        events, status = read_events(tmpfs), read_status(tmpfs)
        assert len(events) + status.unread == content.count(b"\n")
        left = iter(events)
        untouched = [line for line in content.split(b"\n")[:-1] if line in originals]
        assert all(json.loads(line) in left for line in untouched), "what is whole is there, in its order"
        return status

    refused, taken = survive(inputs, read, lambda draw: spoilt_bytes(sound, draw))
    assert (refused, taken) == (0, 1)


def test_parquet_files_of_images(tmpfs: Path, inputs: int) -> None:
    path = tmpfs / "train-00000-of-00001.parquet"
    shards.write_split(tmpfs, "train", torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4), [3, 5])
    sound = path.read_bytes()

    def read(content: bytes) -> Any:
        path.write_bytes(content)
        split = read_split(tmpfs, "train")
        assert split.images.dtype == torch.uint8
        assert len(split.images) == len(split.labels) == len(split.rows)
        return split

    refused, taken = survive(inputs, read, lambda draw: spoilt_bytes(sound, draw))
    assert refused > 0.1
    assert taken > 0.01


def test_parquet_files_of_verdicts(tmpfs: Path, inputs: int) -> None:
    path = tmpfs / "verdicts.parquet"
    drawn(get_suite("quick", eps=0.1), 5).write(path)
    sound = path.read_bytes()

    def read(content: bytes) -> Any:
        path.write_bytes(content)
        verdicts = Verdicts.read(path)
        for outcome in verdicts.outcomes.values():
            assert outcome.broken_at.dtype == np.int64
            assert outcome.final.dtype == np.bool_
            assert len(outcome.broken_at) == len(outcome.final) == len(verdicts)
            assert 0 <= verdicts.robust_acc <= 1
        return verdicts

    refused, taken = survive(inputs, read, lambda draw: spoilt_bytes(sound, draw))
    assert refused > 0.1
    assert taken > 0.01
