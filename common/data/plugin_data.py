"""The layout of a data set by name: one of the suite's, or one that a plugin reads."""

from pathlib import Path

from twinseg.common.data.base import Sample
from twinseg.common.data.classes import default_palette
from twinseg.common.data.labels import IGNORE
from twinseg.common.data.layouts import DATASETS, DatasetSpec, Split, SplitFiles
from twinseg.common.data.listing import NO_FACTS
from twinseg.common.errors import DataError, reason_of
from twinseg.common.plugins import PLUGINS, PluginData


def dataset_spec(name: str) -> DatasetSpec:
    """The data set of that name."""
    return DATASETS[name] if name in DATASETS else _spec_of(PLUGINS.datasets[name], name)


def _spec_of(plugin: PluginData, name: str) -> DatasetSpec:
    def find(split: Split) -> SplitFiles:
        try:
            pairs = [
                (Path(image), None if label is None else Path(label)) for image, label in plugin.reader(split.root, split.name)
            ]
        except Exception as error:
            raise DataError(f'{name}: its reader fails on {split.root}: {type(error).__name__}: {reason_of(error)}') from error
        if not pairs:
            raise DataError(f'{name}: its reader gives no images of {split.name} below {split.root}')
        missing = [f'no label of {image}' for image, label in pairs if label is None or not label.is_file()]
        missing += [f'{image}: no such file' for image, _ in pairs if not image.is_file()]
        samples = (Sample(_name(image, split.root), image, label) for image, label in pairs)
        return SplitFiles(sorted(samples, key=lambda sample: sample.name), missing[:1], NO_FACTS)

    return DatasetSpec(
        classes=plugin.classes,
        palette=plugin.palette or default_palette(len(plugin.classes)),
        layout=f'what the reader of {name} gives of {{split}}',
        find=find,
        label_map=plugin.label_map or {**{index: index for index in range(len(plugin.classes))}, IGNORE: IGNORE},
    )


def _name(image: Path, root: Path) -> str:
    """The path of an image below the folder of the data set, without its ending; its name elsewhere."""
    return (image.relative_to(root) if image.is_relative_to(root) else Path(image.name)).with_suffix('').as_posix()
