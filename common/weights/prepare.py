"""``twinseg prepare weights``: weights with a name are brought into the cache, checked, and described."""

from pathlib import Path
from typing import Optional

from twinseg.common.data.base import OnProgress
from twinseg.common.errors import StateError
from twinseg.common.weights import by_name
from twinseg.common.weights.convert import load


def prepare_weights(
    name: str,
    folder: Optional[Path] = None,
    tell: by_name.Tell = lambda line: None,
    progress: OnProgress = lambda done, total: None,
) -> dict[str, str]:
    """Makes the weights of a name ready in a folder, by default the cache, and says what they are.

    StateError for an unknown name, and for a file of another network, which a publisher without digests lets nobody see
    sooner; DataError where the file cannot be had or has another digest.
    """
    published = by_name.published_as(name)
    if published is None:
        path = by_name.find_shipped(name)
        return {'weights': path.stem, 'file': str(path), 'holds': str(load(path)), 'licence': 'Apache-2.0'}
    path = by_name.fetch_published(published, by_name.weights_folder() if folder is None else folder, tell, progress)
    found = load(path)
    if (found.source, found.arch) != (published.source, published.arch):
        raise StateError(
            f'{path}: holds {found.arch} of {found.source}, expected {published.arch} of {published.source}; '
            f'put the file from {published.url} there'
        )
    return {
        'weights': published.name,
        'file': str(path),
        'holds': str(found),
        'checked': 'by its content alone: its publisher states no digest' if published.digest is None else published.digest,
        'licence': f'{published.licence}; trained on ImageNet, whose terms may apply',
    }
