"""TwinSeg: semantic-segmentation networks, each in PyTorch and in MindSpore, over one framework-free core.

``load`` opens a trained network; ``train``, ``evaluate`` and ``export`` do what the commands of these names do; ``weights``
reads and converts published weights, ``get_backend`` builds networks; ``Callback`` hears of a training. Each is
imported when it is first used, so that ``import twinseg`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinseg.common import weights as weights
    from twinseg.common.backend import get_backend as get_backend
    from twinseg.common.deploy.load import load as load
    from twinseg.common.doors.api import evaluate as evaluate
    from twinseg.common.doors.api import export as export
    from twinseg.common.doors.api import train as train
    from twinseg.common.training.callbacks import Callback as Callback

    __version__: str

__all__ = ['Callback', '__version__', 'evaluate', 'export', 'get_backend', 'load', 'train', 'weights']


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from twinseg.common.host.version import version

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
    if name in ('evaluate', 'export', 'train'):
        from twinseg.common.doors import api

        return getattr(api, name)
    if name == 'Callback':
        from twinseg.common.training.callbacks import Callback

        return Callback
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
