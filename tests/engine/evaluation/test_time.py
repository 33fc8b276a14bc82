"""An evaluation says early how long it will take, by what each attack took on its first batch."""

import os

from bat_core.paths import chosen, make_folder, write_atomically
from sweeps.engine.evaluation.attack import EvaluationFolder
from sweeps.engine.evaluation.progress import first_batch_seconds
from tests.engine.evaluation.evaluations import evaluation


def write(folder, job, name, shard, at):
    place = chosen(folder.model(job.models[0]) / "shards" / f"{shard:06d}")
    make_folder(place)
    write_atomically(chosen(place / f"{name}.parquet"), b"")
    os.utime(place / f"{name}.parquet", (at, at))


def test_the_first_batch_that_met_all_attacks_says_what_each_took(tmp_path):
    job, folder = evaluation("net", suite="quick"), EvaluationFolder(tmp_path)
    assert first_batch_seconds(job, folder, since=100) is None
    write(folder, job, "clean", 0, 101)
    write(folder, job, "00-apgd-ce", 0, 104)
    assert first_batch_seconds(job, folder, since=100) is None
    write(folder, job, "01-apgd-t", 0, 124)
    assert first_batch_seconds(job, folder, since=100) == {"APGD-CE": 3.0, "APGD-T": 20.0}
    assert first_batch_seconds(job, folder, since=102) is None  # of an earlier attempt
    for name, at in (("clean", 200), ("00-apgd-ce", 201), ("01-apgd-t", 205)):
        write(folder, job, name, 16, at)
    assert first_batch_seconds(job, folder, since=150) == {"APGD-CE": 1.0, "APGD-T": 4.0}


def test_attacks_that_pool_their_images_took_their_share_of_a_group(tmp_path):
    """The ladder attacked both batches side by side; APGD-CE had the first to itself."""
    job, folder = evaluation("net", suite="fast+quick", n=32), EvaluationFolder(tmp_path)
    for shard in (0, 16):
        write(folder, job, "clean", shard, 101)
        write(folder, job, "00-ladder", shard, 111)
    write(folder, job, "01-apgd-ce", 0, 114)
    assert first_batch_seconds(job, folder, since=100, together=2) is None
    write(folder, job, "02-apgd-t", 0, 134)
    expected = {"LADDER": 5.0, "APGD-CE": 3.0, "APGD-T": 20.0}
    assert first_batch_seconds(job, folder, since=100, together=2) == expected
