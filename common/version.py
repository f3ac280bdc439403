"""The version of this suite: of the installed package, or in a bare checkout of its ``pyproject.toml``."""

import re
from importlib import metadata
from pathlib import Path


def version() -> str:
    """The version, such as ``0.1.0``."""
    try:
        return metadata.version('twinseg')
    except metadata.PackageNotFoundError:
        text = (Path(__file__).resolve().parents[1] / 'pyproject.toml').read_text(encoding='utf-8')
        return re.findall(r'^version = "(.+)"$', text, re.MULTILINE)[0]
