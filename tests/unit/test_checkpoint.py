import copy
import dataclasses
import json
import shutil
from itertools import islice

import pytest
import torch

from bat_core.checkpoint import (
    checkpoints,
    find_resume_point,
    load_checkpoint,
    load_model,
    read_description,
    save_checkpoint,
    save_model,
)
from bat_core.errors import InputError
from bat_core.fit import EpochReport, TrainState, fit, fit_by_batch, initial_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The unpacked result of `saved`, made once for the module."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def saved(tmp_path, store, make_trial, digits):
    """A trial's config and its checkpoint folder after two of three epochs."""
    config = make_trial()
    if not any(store.iterdir()):
        for report in fit(config, digits):
            if report.epoch <= 2:
                save_checkpoint(store / "checkpoints", report.state, config, digits)
    shutil.copytree(store / "checkpoints", tmp_path / "checkpoints")
    return config, tmp_path / "checkpoints"


def tensors(state):
    momenta = state.optimizer.state_dict()["state"]
    return [*state.model.state_dict().values(), *(momenta[key]["momentum_buffer"] for key in sorted(momenta))]


@pytest.mark.parametrize("recipe", ["R-MC-LA", "Madry"])
@pytest.mark.parametrize("model", ["small_cnn_8", "wrn_10_1"])
def test_going_on_equals_never_having_stopped(recipe, model, tmp_path, make_trial, digits):
    config = make_trial(recipe, model=model)
    *_, uninterrupted = fit(config, digits)
    save_checkpoint(tmp_path, next(fit(config, digits)).state, config, digits)
    state = load_checkpoint(tmp_path, config, digits, CPU)
    assert state.epoch == 1
    *_, resumed = fit(config, digits, state=state)
    ours, theirs = tensors(resumed.state), tensors(uninterrupted.state)
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for name in ("epoch", "lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc"):
        assert getattr(resumed, name) == getattr(uninterrupted, name)


@pytest.mark.parametrize("after", [1, 6, 8])
def test_going_on_between_two_batches_equals_never_having_stopped(after, tmp_path, make_trial, digits):
    config = make_trial(model="wrn_10_1", epochs=2)  # of four batches each
    *_, uninterrupted = fit(config, digits)
    state = next(islice(batches_of(fit_by_batch(config, digits)), after - 1, None))
    save_checkpoint(tmp_path, state, config, digits)
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"epoch_{(after - 1) // 4:04d}_batch_{(after - 1) % 4 + 1:06d}"
    ]
    state = load_checkpoint(tmp_path, config, digits, CPU)
    rest = list(fit_by_batch(config, digits, state=state))
    assert sum(isinstance(event, TrainState) for event in rest) == 8 - after
    resumed = rest[-1]
    assert all(torch.equal(a, b) for a, b in zip(tensors(resumed.state), tensors(uninterrupted.state), strict=True))
    for name in ("epoch", "lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc"):
        assert getattr(resumed, name) == getattr(uninterrupted, name)


def batches_of(events):
    return (event for event in events if isinstance(event, TrainState))


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path, make_trial, digits):
    config = make_trial(epochs=1)
    for report in fit(config, digits):
        save_checkpoint(tmp_path, report.state, config, digits)
    assert list(fit(config, digits, state=load_checkpoint(tmp_path, config, digits, CPU))) == []


def test_only_safetensors_and_json_are_written(saved):
    _, folder = saved
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        f"epoch_000{epoch}/{name}"
        for epoch in (1, 2)
        for name in ("checksums.json", "config.json", "model.safetensors", "optimizer.safetensors")
    ]
    json.loads((folder / "epoch_0001" / "config.json").read_text(), parse_constant=pytest.fail)


def test_the_two_newest_are_kept(tmp_path, make_trial, digits):
    config = make_trial(epochs=4)
    for report in fit(config, digits):
        assert save_checkpoint(tmp_path, report.state, config, digits).is_dir()
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch_0003", "epoch_0004"]


def flip(path, position, bits=0x10):
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(content)


DAMAGE = {  # and what is said of it
    "flipped weight": (lambda f: flip(f / "model.safetensors", -3), "model.safetensors is damaged"),
    "flipped header": (lambda f: flip(f / "model.safetensors", 20), "model.safetensors is damaged"),
    "flipped momentum": (lambda f: flip(f / "optimizer.safetensors", -3), "optimizer.safetensors is damaged"),
    "cut weights": (lambda f: cut(f / "model.safetensors", 1), "model.safetensors is damaged"),
    "cut momentum": (lambda f: cut(f / "optimizer.safetensors", 1), "optimizer.safetensors is damaged"),
    "emptied weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no momentum": (lambda f: (f / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "no description": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "emptied description": (lambda f: (f / "config.json").write_bytes(b""), "config.json is damaged"),
    "cut description": (lambda f: cut(f / "config.json", 2), "config.json is damaged"),
    "other JSON": (lambda f: (f / "config.json").write_text("{}"), "config.json is damaged"),
    "a JSON list": (lambda f: (f / "config.json").write_text("[]"), "config.json is damaged"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "no checksums": (lambda f: (f / "checksums.json").unlink(), "checksums.json is missing"),
    "empty checksums": (lambda f: (f / "checksums.json").write_text("{}"), "is damaged"),
    "cut checksums": (lambda f: cut(f / "checksums.json", 1), "checksums.json is damaged"),
    "checksums of another kind": (lambda f: (f / "checksums.json").write_text("[]"), "checksums.json is damaged"),
    "checksums not UTF-8": (lambda f: (f / "checksums.json").write_bytes(b"\xff"), "checksums.json is damaged"),
    "flipped checksum": (lambda f: flip(f / "checksums.json", 30), "checksums.json"),
    "another epoch": (lambda f: rewrite(f, lambda d: d.update(epoch=1)), "config.json is damaged"),
    "emptied folder": (lambda f: (shutil.rmtree(f), f.mkdir()), "checksums.json is missing"),
}


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def rewrite(folder, change):
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, saved, digits):
    config, folder = saved
    before = load_checkpoint(folder, config, digits, CPU)
    assert before.epoch == 2
    do, said = DAMAGE[damage]
    do(folder / "epoch_0002")
    choice = find_resume_point(folder, config)
    assert choice.folder == folder / "epoch_0001"
    assert list(choice.passed_over) == ["epoch_0002"]
    assert said in choice.passed_over["epoch_0002"]
    assert str(folder / "epoch_0002") in choice.passed_over["epoch_0002"]
    state = load_checkpoint(folder, config, digits, CPU)
    assert state.epoch == 1
    assert not all(torch.equal(a, b) for a, b in zip(tensors(state), tensors(before), strict=True))
    with pytest.raises(InputError) as caught:
        load_model(folder / "epoch_0002")
    assert "\n" not in str(caught.value)


def test_a_flip_anywhere_in_the_description_is_detected(saved, digits):
    config, folder = saved
    path = folder / "epoch_0002" / "config.json"
    sound = path.read_bytes()
    for position in [*range(0, len(sound), 13), sound.index(b'"epoch": 2') + 9]:
        flip(path, position, 0x01)
        state = load_checkpoint(folder, config, digits, CPU)
        assert state.epoch == 1, sound[:position].splitlines()[-1]
        path.write_bytes(sound)


def test_with_no_sound_checkpoint_there_is_none(saved, digits):
    config, folder = saved
    for epoch in (1, 2):
        cut(folder / f"epoch_000{epoch}" / "model.safetensors", 1)
    assert list(find_resume_point(folder, config).passed_over) == ["epoch_0002", "epoch_0001"]
    assert load_checkpoint(folder, config, digits, CPU) is None
    assert load_checkpoint(folder / "nowhere", config, digits, CPU) is None


def test_another_trials_checkpoint_is_passed_over(saved, make_trial, digits):
    _, folder = saved
    assert load_checkpoint(folder, make_trial(seed=1), digits, CPU) is None
    assert load_checkpoint(folder, make_trial(epochs=4), digits, CPU) is None
    said = find_resume_point(folder, make_trial(epochs=4)).passed_over["epoch_0002"]
    assert said == f"{folder / 'epoch_0002'} has another config: train.epochs is 3 there and 4 here"


def test_a_checkpoint_is_not_written_where_its_trials_folder_was(saved, digits):
    config, folder = saved
    state = load_checkpoint(folder, config, digits, CPU)
    with pytest.raises(FileNotFoundError):
        save_checkpoint(folder / "gone" / "checkpoints", state, config, digits)
    assert not (folder / "gone").exists()


def test_another_trials_checkpoints_do_not_crowd_out_ones_own(saved, make_trial, digits):
    _, folder = saved
    (folder / "epoch_0001").rename(folder / "epoch_0003")
    other = make_trial(seed=1, epochs=1)
    (report,) = fit(other, digits)
    assert save_checkpoint(folder, report.state, other, digits).is_dir()
    assert load_checkpoint(folder, other, digits, CPU).epoch == 1


def test_a_write_that_was_interrupted_disturbs_nothing(saved, digits):
    config, folder = saved
    leftover = folder / ".epoch_0002.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    state = load_checkpoint(folder, config, digits, CPU)
    assert state.epoch == 2
    save_checkpoint(folder, state, config, digits)
    assert load_checkpoint(folder, config, digits, CPU).epoch == 2
    assert [path.name for path in sorted(folder.iterdir())] == ["epoch_0001", "epoch_0002"]


def test_a_save_that_fails_leaves_the_one_before(saved, digits, monkeypatch):
    config, folder = saved
    state = load_checkpoint(folder, config, digits, CPU)
    monkeypatch.setattr("bat_core.checkpoint.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(folder, state, config, digits)
    assert load_checkpoint(folder, config, digits, CPU).epoch == 2


def test_a_model_is_found_from_its_trial_its_checkpoint_or_its_own_folder(saved, digits):
    config, folder = saved
    trial = folder.parent
    state = load_checkpoint(folder, config, digits, CPU)
    x = digits.test.images[:8].double() / 255
    expected = copy.deepcopy(state.model).eval().double()(x)
    save_model(trial / "elsewhere", state, config, digits)
    for place in (trial, str(folder), folder / "epoch_0002", trial / "elsewhere"):
        model, found = load_model(place)
        assert found == config
        assert not model.training
        torch.testing.assert_close(model.double()(x), expected, rtol=0, atol=1e-12)


def test_a_trials_finished_model_goes_before_its_checkpoints(saved, digits):
    config, folder = saved
    state = load_checkpoint(folder, config, digits, CPU)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    save_model(folder.parent / "model", state, config, digits)
    model, _ = load_model(folder.parent)
    assert not any(parameter.any() for parameter in model.parameters())


def test_a_description_tells_all_that_rebuilds_the_model(saved):
    config, folder = saved
    description = read_description(folder / "epoch_0002")
    assert description.config == config
    assert description.epoch == 2
    assert description.num_classes == 10
    assert description.image_shape == (1, 8, 8)
    assert description.class_names == tuple("0123456789")


def test_where_there_is_no_model_a_person_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no model in .* a folder with model\.safetensors$"):
        load_model(tmp_path)


def channels_last_momenta(state):
    """For each convolution, whether its momentum has the strides of its weights."""
    return [values["momentum_buffer"].stride() == weights.stride() for weights, values in state.optimizer.state.items()]


@pytest.mark.parametrize("batches", [0, 2])
def test_a_fused_optimiser_goes_on_bit_for_bit(batches, tmp_path, make_trial, digits, monkeypatch):
    """A fused optimiser takes momentum in the strides of the weights; it is what trains on GPUs."""
    plain = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda groups, **settings: plain(groups, **{**settings, "fused": True}))
    config = make_trial(model="wrn_10_1", epochs=2)
    updates = fit_by_batch(config, digits)
    state = next(event.state for event in updates if isinstance(event, EpochReport))
    for _ in range(batches):
        state = next(updates)
    save_checkpoint(tmp_path, state, config, digits)
    *_, whole = updates
    loaded = load_checkpoint(tmp_path, config, digits, CPU)
    assert loaded.optimizer.defaults["fused"]
    assert all(channels_last_momenta(loaded))
    *_, resumed = fit(config, digits, state=loaded)
    for ours, theirs in zip(tensors(resumed.state), tensors(whole.state), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("choice", ["auto", "off"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_is_judged_in_the_layout_it_was_trained_in(channels, choice, tmp_path, make_trial, digits):
    parts = {name: digits.part(name).take(slice(32)) for name in ("train", "test")}
    colour = {
        name: dataclasses.replace(one, images=one.images.expand(-1, channels, -1, -1)) for name, one in parts.items()
    }
    dataset = dataclasses.replace(digits, **colour)
    config = make_trial(channels_last=choice)
    save_model(tmp_path / "model", initial_state(config, dataset, CPU), config, dataset)
    model, _ = load_model(tmp_path / "model")
    assert model.training is False
    first = next(one for one in model.parameters() if one.ndim == 4)
    if channels == 3:
        assert first.is_contiguous(memory_format=torch.channels_last) == (choice == "auto")
    else:
        assert all(one.is_contiguous() for one in model.parameters())
