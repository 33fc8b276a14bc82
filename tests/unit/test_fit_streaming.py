"""Training on images in files: what it depends on, and what it is equal to."""

import dataclasses

import pytest
import torch

from bat_core.checkpoint import load_checkpoint, save_checkpoint
from bat_core.config import DataConfig
from bat_core.data import ImageFiles, load_dataset
from bat_core.evaluate import evaluate
from bat_core.fit import fit
from bat_core.workers import Workers

from . import photographs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs.write_dataset(tmp_path_factory.mktemp("photographs"), train=16, val=6)


@pytest.fixture
def streamed(folder):
    return load_dataset("imagenet", folder, image_size=16, val_size=8, data_workers=0)


@pytest.fixture
def trial(make_trial):
    config = make_trial(epochs=3, batch_size=10, params={"eps": 8 / 255})
    return dataclasses.replace(config, data=DataConfig(name="imagenet", val_size=8, image_size=16))


def weights(state):
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def trained(config, dataset, **settings):
    *_, last = fit(config, dataset, **settings)
    return weights(last.state), last


def test_the_number_of_decoding_processes_changes_nothing(trial, streamed, folder):
    several = load_dataset("imagenet", folder, image_size=16, val_size=8, data_workers=2)
    (one, first), (other, second) = trained(trial, streamed), trained(trial, several)
    assert same(one, other)
    assert (first.train_loss, first.val_robust_acc) == (second.train_loss, second.val_robust_acc)


def test_going_on_from_a_checkpoint_equals_never_having_stopped(trial, streamed, tmp_path):
    undisturbed, _ = trained(trial, streamed)
    for report in fit(trial, streamed):
        save_checkpoint(tmp_path, report.state, trial, streamed)
        if report.epoch == 1:
            break
    state = load_checkpoint(tmp_path, trial, streamed, CPU)
    assert state.epoch == 1
    assert same(trained(trial, streamed, state=state)[0], undisturbed)


def test_each_epoch_has_crops_of_its_own_and_validation_has_none(trial, streamed, monkeypatch):
    seen, real = [], ImageFiles.decode

    def watched(self, position, crops):
        image = real(self, position, crops)
        seen.append((self.names[position], crops, image.numpy().tobytes()))
        return image

    monkeypatch.setattr(ImageFiles, "decode", watched)
    list(fit(trial, streamed))
    held_out = set(streamed.val.images.names.tolist())
    assert all((name in held_out) == (crops is None) for name, crops, _ in seen)
    assert {crops.epoch for _, crops, _ in seen if crops} == {1, 2, 3}
    assert {crops.seed for _, crops, _ in seen if crops} == {trial.seed}
    assert len({(name, image) for name, crops, image in seen if crops}) > 0.9 * sum(bool(crops) for _, crops, _ in seen)
    assert {image for _, crops, image in seen if crops is None} == {
        image.numpy().tobytes() for image in streamed.val.images[:]
    }


@pytest.mark.parametrize("size", [2, 5])
def test_workers_decode_shares_that_make_up_the_epoch(trial, streamed, monkeypatch, size):
    """Each rank's source of batches, as the trainer iterates over it."""
    import bat_core.fit

    state = bat_core.fit.initial_state(trial, streamed, CPU)

    def decoded(rank, of):
        names = []
        monkeypatch.setattr(Workers, "wrap", lambda self, model: model)
        trainer = bat_core.fit._Trainer(trial, streamed, state, CPU, Workers(rank, of))
        with monkeypatch.context() as patch:
            real = ImageFiles.decode
            patch.setattr(ImageFiles, "decode", lambda self, p, c: names.append(self.names[p]) or real(self, p, c))
            batches = [(images.clone(), labels.clone()) for images, labels in trainer._share_batches(1, 0)]
        return names, batches

    alone, whole = decoded(0, 1)
    shares = [decoded(rank, size) for rank in range(size)]
    assert len(alone) == 40
    assert sorted(name for names, _ in shares for name in names) == sorted(alone)
    for batch, (images, labels) in enumerate(whole):
        for rank, (_, batches) in enumerate(shares):
            assert torch.equal(batches[batch][0], images[rank::size])
            assert torch.equal(batches[batch][1], labels[rank::size])


def test_an_epoch_can_be_entered_at_any_batch(trial, streamed):
    import bat_core.fit

    state = bat_core.fit.initial_state(trial, streamed, CPU)
    trainer = bat_core.fit._Trainer(trial, streamed, state, CPU, Workers())
    whole, rest = list(trainer._share_batches(2, 0)), list(trainer._share_batches(2, 3))
    assert (len(whole), len(rest)) == (4, 1)
    assert torch.equal(whole[3][0], rest[0][0])
    assert torch.equal(whole[3][1], rest[0][1])


def test_an_evaluation_of_files_is_that_of_what_they_hold(trial, streamed):
    _, last = trained(trial, streamed)
    test, whole = streamed.test, streamed.test.in_memory()
    one, other = (
        evaluate(last.state.model, part.images, part.labels, attack=trial.attack, rows=part.rows, batch_size=7)
        for part in (test, whole)
    )
    assert one.rows.tolist() == other.rows.tolist() == sorted(test.rows.tolist())
    assert one.outcomes["ce"].broken_at.tolist() == other.outcomes["ce"].broken_at.tolist()
