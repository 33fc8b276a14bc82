"""Which network: its family, width and depth."""

from search_spaces.base import Parameter, Space

SPACE = Space(
    name="model",
    says="the network",
    forms={"family": {"small_cnn": "small_cnn_{channels}", "wrn": "wrn_{depth}_{width}"}},
    parameters=(
        Parameter(
            name="family",
            kind="choice",
            says="a plain network or a wide ResNet",
            where="model",
            options=("small_cnn", "wrn"),
            usual="small_cnn",
        ),
        Parameter(
            name="channels",
            kind="integer",
            says="channels of the first layer",
            low=8,
            high=64,
            log=True,
            usual=32,
            when={"family": ("small_cnn",)},
        ),
        Parameter(
            name="depth",
            kind="choice",
            says="layers of the wide ResNet",
            options=(10, 16, 22, 28, 34),
            usual=28,
            when={"family": ("wrn",)},
        ),
        Parameter(
            name="width",
            kind="integer",
            says="widening factor of the wide ResNet",
            low=1,
            high=10,
            log=True,
            usual=10,
            when={"family": ("wrn",)},
        ),
    ),
)
