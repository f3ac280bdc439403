"""TwinSeg: semantic-segmentation networks, each in PyTorch and in MindSpore, over one framework-free core.

``load`` opens a trained network, ``weights`` reads and converts published ones, ``get_backend`` builds networks. Each is
imported when it is first used, so that ``import twinseg`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinseg.common import weights as weights
    from twinseg.common.backend import get_backend as get_backend
    from twinseg.common.deploy.load import load as load

    __version__: str

__all__ = ['__version__', 'get_backend', 'load', 'weights']


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from twinseg.common.version import version

        return version()
    if name == 'get_backend':
        from twinseg.common.backend import get_backend

        return get_backend
    if name == 'load':
        from twinseg.common.deploy.load import load

        return load
    if name == 'weights':
        from twinseg.common import weights

        return weights
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
