"""What is installed: the version of this suite, and the frameworks of its backends."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

FRAMEWORKS = {'pytorch': 'torch', 'mindspore': 'mindspore'}  # backend -> its package


def available() -> list[str]:
    """The backends whose frameworks are installed; imports neither."""
    return [name for name, framework in FRAMEWORKS.items() if importlib.util.find_spec(framework)]


def version() -> str:
    """The version, such as ``0.1.0``: of the installed package, or in a bare checkout of its ``pyproject.toml``."""
    try:
        return metadata.version('twinseg')
    except metadata.PackageNotFoundError:
        text = (Path(__file__).resolve().parents[2] / 'pyproject.toml').read_text(encoding='utf-8')
        return re.findall(r'^version = "(.+)"$', text, re.MULTILINE)[0]
