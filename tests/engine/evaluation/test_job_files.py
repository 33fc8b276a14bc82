"""Models that were trained on images in files are attacked on images of the same size."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from bat_core.checkpoint import save_model
from bat_core.config import DataConfig, TrialConfig
from bat_core.data import ImageFiles, load_dataset
from bat_core.errors import InputError
from bat_core.fit import initial_state
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.setup import make_spec_fields, reload_images
from sweeps.engine.evaluation.spec import EvaluationSpec
from tests.unit import photographs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return photographs.write_dataset(tmp_path_factory.mktemp("photographs"), train=10)


@pytest.fixture
def saved(images, tmp_path):
    def save(size):
        config = TrialConfig(data=DataConfig(name="imagenet", val_size=6, image_size=size), model="small_cnn_8")
        dataset = load_dataset("imagenet", images, val_size=6, image_size=size)
        folder = tmp_path / f"net{size}"
        save_model(folder, initial_state(config, dataset, torch.device("cpu")), config, dataset)
        return str(folder)

    return save


def decided(models, images, folder, **options):
    asked = EvaluateOptions(data_dir=images, despite_findings=True, **options)
    return (*make_spec_fields(models, asked, folder, Console(quiet=True)), asked)


def test_images_have_the_size_that_the_model_was_trained_on_also_when_resumed(saved, images, tmp_path):
    fields, part, options = decided([saved(24)], images, tmp_path / "out", data_workers=0)
    assert part.images.shape == (12, 3, 24, 24)
    assert fields["image_size"] == 24
    again = reload_images(EvaluationSpec.new(**fields), replace(options, data_workers=1), "evaluation")
    assert isinstance(again.images, ImageFiles)
    assert (again.images.shape, again.images.workers) == (part.images.shape, 1)
    assert torch.equal(again.images[:], part.images[:])


def test_models_of_two_sizes_are_attacked_on_the_one_that_is_named(saved, images, tmp_path):
    models = [saved(16), saved(24)]
    with pytest.raises(InputError, match="models were trained on 16 pixels and 24 pixels; give --image-size"):
        decided(models, images, tmp_path / "out")
    _, part, _ = decided(models, images, tmp_path / "out", image_size=32)
    assert part.images.shape == (12, 3, 32, 32)
