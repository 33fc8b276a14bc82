"""`onnx:FILE`: a network in an ONNX file, converted to torch by onnx2pytorch."""

from pathlib import Path
from typing import Any

from bat_core.adapter.importing import user_code
from bat_core.adapter.sources.base import SOURCES, Built, Source, Target, installed
from bat_core.errors import InputError


@SOURCES.register("onnx")
class OnnxFiles(Source):
    """Converts an ONNX graph. The result is differentiable with respect to the images."""

    form = "onnx:FILE"
    takes_weights = False

    def resolve(self, name: str) -> str:
        if not Path(name).is_file():
            raise InputError(f"model 'onnx:{name}': there is no such file")
        return str(Path(name).resolve())

    def title(self, name: str) -> str:
        return Path(name).stem

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        what = f"model 'onnx:{Path(name).name}'"
        onnx: Any = installed("onnx", extra="onnx", what=what)
        converter: Any = installed("onnx2pytorch", extra="onnx", what=what)
        with user_code(f"{what} is not an ONNX file that can be read"):
            graph = onnx.load(name)
        with user_code(f"{what} cannot be converted by onnx2pytorch"):
            module = converter.ConvertModel(graph, experimental=True)  # experimental: batches of any size
        return Built(module=module)
