"""The paper's tables as a person makes them: trained on Ray, trained once, drawn again, mirrored to MLflow."""

import csv
import io
import json
import re

import pytest
from mlflow.tracking import MlflowClient

from sweeps.engine.tracking.runs import REUSED_TAG, TRIAL_TAG
from tests.integration.running import attempt

TINY = (
    *("--train-size", "256", "--test-size", "40", "--val-size", "40", "--epochs", "1", "--verify", "8"),
    *("--model", "small_cnn_8", "--max-concurrent", "1"),
)
ROWS = ("--rows", "R-MC-LA", "Undefended")


@pytest.fixture(scope="module")
def black_boxes(apart):
    code, printed = apart.run("table_7.py", *TINY, *ROWS, "--output", "outputs/seven")
    assert code == 0, printed
    return apart.sweep("outputs/seven"), printed


@pytest.fixture(scope="module")
def white_boxes(apart, black_boxes):
    code, printed = apart.run("table_6.py", *TINY, "--rows", "R-MC-LA (eps_x = 8)", "--output", "outputs/six")
    assert code == 0, printed
    return apart.sweep("outputs/six"), printed


def cells(output, name):
    return list(csv.DictReader(io.StringIO(output.file(name).decode())))


@pytest.mark.slow
def test_every_cell_is_filled_or_says_that_it_was_not_run(black_boxes):
    output, printed = black_boxes
    by_place = {(cell["row"], cell["column"]): cell for cell in cells(output, "table_7.csv")}
    for column in ("clean", "undefended FGSM", "undefended CE20", "another FGSM", "another CE20", "white CE20"):
        cell = by_place["R-MC-LA", column]
        assert cell["ours"]
        assert [part.split(":")[0] for part in cell["by_seed"].split(";")] == ["0", "1"]
        assert cell["verified"]
        assert by_place["R-MC-LA+", column]["ours"] == ""
    assert by_place["R-MC-LA", "another CE20"]["paper"] == "71.0"
    assert "not run" in printed
    assert "undecided" in printed or "shows" in printed


@pytest.mark.slow
def test_a_model_that_is_there_is_not_trained_again(apart, black_boxes, white_boxes):
    (source, _), (output, printed) = black_boxes, white_boxes
    assert "2 trials reused from finished sweeps: outputs/seven" in printed
    assert "0 of 2 trials to run" in printed
    for trial in ("R-MC-LA-eps8-seed0", "R-MC-LA-eps8-seed1"):
        assert output.weights()[trial] == source.weights()[trial]
        assert output.statuses()[trial].reused == f"{source.spec.id}/{trial}"


@pytest.mark.slow
def test_both_are_in_mlflow_with_their_table(apart, white_boxes):
    client = MlflowClient(apart.uri)
    experiment = client.get_experiment_by_name("table_6-six")
    runs = {run.data.tags[TRIAL_TAG]: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    parent = runs.pop("(parent)")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files >= {"table_6.md", "table_6.csv", "table_6.png", "table_6.svg"}
    assert parent.info.status == "FINISHED"
    assert all(run.data.tags[REUSED_TAG].endswith(name) for name, run in runs.items())


@pytest.mark.slow
def test_drawn_again_it_is_the_same_and_nothing_is_asked_again(apart, black_boxes):
    output, _ = black_boxes
    names = ("table_7.csv", "table_7.md", "table_7.png", "probes/crafted-on-Undefended-seed0.parquet")
    before = [output.file(name) for name in names]
    code, printed = apart.again("table_7.py", "--resume", "outputs/seven")
    assert code == 0, printed
    assert "measurement" not in printed
    assert [output.file(name) for name in names] == before


@pytest.mark.slow
def test_answers_that_are_lost_are_asked_again_and_what_has_none_is_said(apart, black_boxes):
    """Both need the model that is damaged at first: one crafts on it, the other is read by it."""
    output, _ = black_boxes
    table = output.file("table_7.csv")
    answers = [
        output.folder.path / "probes" / f"crafted-on-{trial}.parquet"
        for trial in ("R-MC-LA-eps8-seed0", "Undefended-seed0")
    ]
    before = [answer.read_bytes() for answer in answers]
    for answer in answers:
        answer.unlink()
    (weights,) = (output.folder.path / "trials" / "Undefended-seed0" / "model").glob("*.safetensors")
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    code, printed = apart.run("table_7.py", "--resume", "outputs/seven")
    assert code == 1, printed
    assert "not all measurements succeeded" in printed
    assert "model.safetensors is damaged" in printed
    assert re.search(r"retry with .*table_7\.py --resume outputs/seven", printed)
    assert "Traceback" not in printed
    assert not any(answer.exists() for answer in answers)
    undefended = next(cell for cell in cells(output, "table_7.csv") if cell["column"] == "undefended FGSM")
    assert [part.split(":")[0] for part in undefended["by_seed"].split(";")] == ["1"]
    weights.write_bytes(sound)
    code, printed = apart.run("table_7.py", "--resume", "outputs/seven")
    assert code == 0, printed
    assert "2 measurements on" in printed
    assert [answer.read_bytes() for answer in answers] == before
    assert output.file("table_7.csv") == table


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("table_5.py", ("--scale", "tiny"), "unknown scale 'tiny'"),
        ("table_5.py", ("--rows", "TRADE"), "did you mean 'TRADES'?"),
        ("table_5.py", ("--rows", "Madry"), "unknown row of table 5 'Madry'"),
        ("table_9.py", ("--model", "small_cnn"), "table 9 compares 3 networks"),
        ("table_5.py", ("--scale", "small"), "give it with --data-dir DIR"),
        ("table_1.py", ("--resume", "outputs", "--scale", "small"), "--scale cannot be given with --resume"),
    ],
)
def test_bad_input_is_one_sentence_and_starts_nothing(script, arguments, said, monkeypatch, empty):
    code, printed = attempt(monkeypatch, script, *arguments)
    assert code == 2
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert list(empty.iterdir()) == []


@pytest.mark.slow
def test_what_is_kept_says_which_sweep_and_trial_it_came_from(white_boxes):
    output, _ = white_boxes
    (trial, *_) = output.spec.trials
    lines = (output.folder.trial(trial) / "record.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines][-2:] == ["finished", "reused"]
