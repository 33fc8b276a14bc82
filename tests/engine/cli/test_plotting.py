import subprocess
import sys
from pathlib import Path

IPYTHON = """
import builtins
builtins.begun.set()
builtins.drawing.wait()
version_info = (9, 0)
"""
DRAW = """
import builtins, importlib, sys, threading, types
from pathlib import Path
from sweeps.engine.cli.plotting import new_figure, save_figure

sys.modules["mlflow"] = types.ModuleType("mlflow")
sys.path.insert(0, "modules")
builtins.begun, builtins.drawing = threading.Event(), threading.Event()
other = threading.Thread(target=importlib.import_module, args=("IPython",))
other.start()
begun.wait()
threading.Timer(0.2, drawing.set).start()  # while the figure is drawn, or waits
print([path.name for path in save_figure(new_figure(4, 3), Path("drawn").absolute())])
other.join()
"""


def test_an_ipython_that_another_thread_is_importing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "IPython.py").write_text(IPYTHON)
    ran = subprocess.run([sys.executable, "-c", DRAW], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == "['drawn.png', 'drawn.svg']\n", ran.stderr
