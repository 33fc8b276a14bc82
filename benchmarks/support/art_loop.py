"""IBM ART's AdversarialTrainer, one batch at a time. `benchmarks/training.py` runs it in a separate environment."""

import sys

import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load_file

from bat_core.models import build_model

EPS, STEP, STEPS = 8 / 255, 2 / 255, 7


def main(start: str, network: str, device: str, threads: str, size: str) -> None:
    torch.set_num_threads(int(threads))
    content = load_file(start)
    model = build_model(network, num_classes=10, image_shape=(3, int(size), int(size)))
    model.load_state_dict({name[6:]: one for name, one in content.items() if name.startswith("model.")})
    classifier = PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
        input_shape=(3, int(size), int(size)),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if device == "cuda" else "cpu",
    )
    images = len(content["x"])
    attack = ProjectedGradientDescent(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, verbose=False, batch_size=images
    )
    trainer = AdversarialTrainer(classifier, attacks=attack, ratio=1.0)
    x, y = content["x"].numpy(), torch.nn.functional.one_hot(content["y"], 10).float().numpy()
    print("ready", flush=True)
    for _ in sys.stdin:
        trainer.fit(x, y, batch_size=images, nb_epochs=1)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
