import sys


def test_the_environment_is_isolated_once() -> None:
    """A second time would remove the settings that the engine has made for Ray and MLflow since."""
    assert "tests.conftest" in sys.modules
    assert "conftest" not in sys.modules
