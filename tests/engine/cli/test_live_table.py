import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bat_core.config import RecipeConfig, TrainConfig, TrialConfig
from sweeps.engine.cli.live_table import AROUND, Changes, StatusBoard, live_table, status_table
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

PIXEL = 1 / 255


def sweep_of(count: int) -> Sweep:
    config = TrialConfig(recipe=RecipeConfig(params={"eps": 4 / 255}), train=TrainConfig(epochs=5))
    trials = [Trial(id=f"trial{i}", config=config) for i in range(count)]
    return Sweep(name="s", command="", data_dir=None, pixel=PIXEL, resources=Resources(), trials=tuple(trials))


def printed(board: StatusBoard) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(status_table(board, began=0.0, concurrent=1))
    return console.export_text()


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "val_clean_acc": 0.75, "val_robust_acc": 0.125, "seconds": 1.0}


def test_the_table_shows_budget_epoch_accuracies_and_state(tmp_path: Path) -> None:
    sweep, folder = sweep_of(4), SweepFolder(tmp_path)
    board = StatusBoard(sweep, folder)
    records = [Record(folder.trial(trial)) for trial in sweep.trials]
    for record in records[:3]:
        record.append("start")
        record.append("epoch", **epoch(1))
    assert "training" in printed(board)
    records[0].append("failed", reason="FloatingPointError: the loss is nan")
    records[1].append("attack", done=100, of=400)
    records[2].append("attack", done=0, of=400)
    records[2].append("finished", clean_acc=0.9, robust_acc=0.4, robust_n=50, suite="PGD-3+quick", verdict="suspect")
    text = printed(board)
    for words in (
        "4 px",
        "1/5",
        "~75.0%",
        "~12.5%",
        "failed: Floating",
        "attacking 100/400",
        "40.0%",
        "waiting",
    ):
        assert words in text
    assert "1 of 4 trials done" in text


def test_off_a_terminal_the_last_table_is_printed(tmp_path: Path) -> None:
    sweep, folder = sweep_of(1), SweepFolder(tmp_path)
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=False)
    with live_table(sweep, folder, console, concurrent=1):
        Record(folder.trial(sweep.trials[0])).append("failed", reason="OSError: the disk is full, and much else")
    text = console.export_text()
    assert "failed: OSError" in text
    assert "much else" not in text


def finished(folder: SweepFolder, trial: Trial, suite: str = "PGD-3+quick") -> None:
    record = Record(folder.trial(trial))
    record.append("start")
    record.append("finished", clean_acc=0.9, robust_acc=0.4, robust_n=50, suite=suite, verdict="clear")


def test_verified_and_unverified_numbers_have_columns_of_their_own(tmp_path: Path) -> None:
    sweep, folder = sweep_of(3), SweepFolder(tmp_path)
    finished(folder, sweep.trials[0])
    finished(folder, sweep.trials[1], suite="PGD-3, not verified")
    Record(folder.trial(sweep.trials[2])).append("start")
    Record(folder.trial(sweep.trials[2])).append("epoch", **epoch(1))
    table = status_table(StatusBoard(sweep, folder), began=0.0, concurrent=1)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert [Text.from_markup(str(cell)).plain for cell in cells["verified"]] == ["40.0%", "", ""]
    assert [Text.from_markup(str(cell)).plain for cell in cells["~PGD"]] == ["", "~40.0%", "~12.5%"]


def test_a_long_table_fits_a_terminal_of_80_by_24_with_its_caption(tmp_path: Path) -> None:
    sweep, folder = sweep_of(60), SweepFolder(tmp_path)
    for trial in sweep.trials[:50]:
        finished(folder, trial)
    for trial in sweep.trials[50:54]:
        Record(folder.trial(trial)).append("start")
    console = Console(width=80, height=24, record=True, file=io.StringIO(), force_terminal=True)
    console.print(status_table(StatusBoard(sweep, folder), began=0.0, concurrent=1, most=console.height - AROUND))
    lines = console.export_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "not verified" in lines[-1] + lines[-2]
    assert sum("training" in line for line in lines) >= 4
    assert "…" not in "".join(lines)


def test_off_a_terminal_each_change_is_one_line(tmp_path: Path) -> None:
    sweep, folder = sweep_of(3), SweepFolder(tmp_path)
    changes = Changes(StatusBoard(sweep, folder), expected=5)
    assert changes.lines() == []
    record = Record(folder.trial(sweep.trials[0]))
    record.append("start")
    assert changes.lines() == ["0 of 5 done; trial0: training"]
    record.append("epoch", **epoch(1))
    assert changes.lines() == []
    finished(folder, sweep.trials[1])
    finished(folder, sweep.trials[2], suite="PGD-3, not verified")
    record.append("failed", reason="OSError: disk")
    assert changes.lines() == [
        "2 of 5 done; trial0: failed: OSError",
        "2 of 5 done; trial1: finished, clean 90.0%, robust 40.0% verified, clear",
        "2 of 5 done; trial2: finished, clean 90.0%, robust ~40.0% not verified, clear",
    ]
