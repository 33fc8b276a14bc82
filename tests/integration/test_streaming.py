"""Models trained on JPEGs in files: by two processes, and by one that is killed while its loaders work."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, ImageFiles, load_dataset
from bat_core.fit import fit
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from tests.exact import exact_state, linked
from tests.unit import photographs

pytestmark = pytest.mark.slow
SIZE, VAL = 16, 8
EPOCHS = 12  # of the trial that is killed in its third or later
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs.write_dataset(tmp_path_factory.mktemp("photographs"), train=24)


def load(folder: Path, data_workers: int) -> Dataset:
    return load_dataset("imagenet", folder, image_size=SIZE, val_size=VAL, data_workers=data_workers)


def config(epochs: int) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(name="imagenet", val_size=VAL, image_size=SIZE),
        model="small_cnn_gn_8",
        recipe=RecipeConfig(params={"eps": 8 / 255}),
        train=TrainConfig(epochs=epochs, batch_size=16, val_steps=2, precision="float32"),
        attack=AttackConfig(steps=(1, 2), verify=0),
    )


def one_of_two(rank: int, folder: Path, out: Path) -> None:
    """What rank `rank` does; what it decoded and what it ended with lie in `out`."""
    workers = linked(rank, str(out))
    decoded: list[str] = []
    real = ImageFiles.decode

    def watched(self, position, crops):  # type: ignore[no-untyped-def]
        decoded.append(f"{crops.epoch if crops else 'val'} {self.names[position].decode()}")
        return real(self, position, crops)

    ImageFiles.decode = watched  # type: ignore[method-assign]
    dataset = load(folder, 0)
    *_, last = fit(config(2), dataset, state=exact_state(config(2), dataset), workers=workers)
    (out / f"decoded-{rank}").write_text("\n".join(decoded))
    (out / f"loss-{rank}").write_text(repr([last.train_loss, last.val_clean_acc, last.val_robust_acc]))
    save_file({name: tensor.contiguous() for name, tensor in last.state.model.state_dict().items()}, out / f"{rank}")
    dist.destroy_process_group()


def test_two_workers_decode_a_half_each_and_train_what_one_trains(folder: Path, tmp_path: Path) -> None:
    mp.spawn(one_of_two, args=(folder, tmp_path), nprocs=2)
    first, second = ((tmp_path / f"decoded-{rank}").read_text().splitlines() for rank in range(2))
    images_an_epoch, epochs = 64, 2
    assert len(first) == len(second) == (images_an_epoch // 2 + VAL // 2) * epochs
    assert not set(first) & set(second)

    dataset = load(folder, 0)
    *_, last = fit(config(2), dataset, state=exact_state(config(2), dataset))
    for rank in range(2):
        for name, tensor in load_file(tmp_path / f"{rank}").items():
            torch.testing.assert_close(tensor, last.state.model.state_dict()[name].contiguous())
        assert eval((tmp_path / f"loss-{rank}").read_text()) == pytest.approx(
            [last.train_loss, last.val_clean_acc, last.val_robust_acc]
        )


TRAINS = """
import sys
from pathlib import Path
import torch
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from tests.integration.test_streaming import CPU, EPOCHS, config, load
torch.set_num_threads(1)
run_trial(Trial(id="t", config=config(EPOCHS)), load(Path(sys.argv[1]), 2), Path(sys.argv[2]), TrialRuntime(device=CPU))
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the process that is killed: sums come out alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_trial_that_is_killed_among_its_loaders_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, one_thread: None
) -> None:
    trial = Trial(id="t", config=config(EPOCHS))
    process = subprocess.Popen([sys.executable, "-c", TRAINS, str(folder), str(tmp_path / "killed")])
    loaders: list[psutil.Process] = []
    while len(read_status(tmp_path / "killed").epochs) < 2 or len(loaders) < 2:
        assert process.poll() is None
        loaders = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    with exclusive(tmp_path / "killed" / ".lock"):  # a loader that was forked this moment has yet to let go of it
        pass
    assert read_status(tmp_path / "killed").phase == "training"

    for name in ("killed", "undisturbed"):
        run_trial(trial, load(folder, 0), tmp_path / name, TrialRuntime(device=CPU))
    assert read_status(tmp_path / "killed").attempts == 2
    results = [dict(read_status(tmp_path / name).result or {}) for name in ("killed", "undisturbed")]
    assert results[0].pop("time") != results[1].pop("time")
    assert results[0] == results[1]
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("killed", "undisturbed"))
    assert one.read_bytes() == other.read_bytes()
    psutil.wait_procs(loaders)


ORPHANS = """
import os
import signal
import sys
from pathlib import Path
import torch
from torch.utils.data._utils import worker
from tests.integration.test_streaming import load

class Late(worker.ManagerWatchdog):
    def __init__(self):
        Path(sys.argv[2]).write_text(str(os.getpid()))
        parent = os.getppid()
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            pass
        super().__init__()

worker.ManagerWatchdog = Late
images = load(Path(sys.argv[1]), 1).train.images
next(images.batches([torch.arange(16), torch.arange(16, 32)]))
"""


def test_a_loaders_process_ends_if_its_parent_was_killed_before_it_looked_for_it(folder: Path, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", ORPHANS, str(folder), str(tmp_path / "pid")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "pid").read_text())).wait(60)
