"""The network: family, width and depth."""

from search_spaces.base import Parameter, Space

SPACE = Space(
    name="model",
    description="the network",
    forms={"family": {"small_cnn": "small_cnn_{channels}", "wrn": "wrn_{depth}_{width}"}},
    parameters=(
        Parameter(
            name="family",
            kind="choice",
            description="a plain network or a wide ResNet",
            field_path="model",
            options=("small_cnn", "wrn"),
            default="small_cnn",
        ),
        Parameter(
            name="channels",
            kind="integer",
            description="channels of the first layer",
            low=8,
            high=64,
            log=True,
            default=32,
            when={"family": ("small_cnn",)},
        ),
        Parameter(
            name="depth",
            kind="choice",
            description="layers of the wide ResNet",
            options=(10, 16, 22, 28, 34),
            default=28,
            when={"family": ("wrn",)},
        ),
        Parameter(
            name="width",
            kind="integer",
            description="widening factor of the wide ResNet",
            low=1,
            high=10,
            log=True,
            default=10,
            when={"family": ("wrn",)},
        ),
    ),
)
