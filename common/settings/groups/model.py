"""Keys of the network."""

from typing import Annotated, Any, Literal, Optional

from pydantic import AfterValidator, Field, model_validator

from twinseg.common.errors import UserError
from twinseg.common.settings.kinds import Fraction, Group, PathText
from twinseg.common.settings.limits import MAX_CLASSES
from twinseg.common.settings.messages import Said, refuse, shown
from twinseg.common.settings.presets import preset_arguments, without_heads

MAX_ARGUMENT = 1 << 16  # whole numbers in model_args: channels, rates, bins


def _arguments(value: Any) -> Any:
    """Refuses what neither JSON nor YAML brings back, and numbers that no network has."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                refuse(f'expected names as keys, found {shown(key)}')
            _arguments(part)
    elif isinstance(value, list):
        for part in value:
            _arguments(part)
    elif isinstance(value, int) and abs(value) > MAX_ARGUMENT or isinstance(value, float) and not abs(value) < float('inf'):
        refuse(f'expected numbers of at most {MAX_ARGUMENT}, found {shown(value)}')
    elif not isinstance(value, (str, int, float, type(None))):
        refuse(f'expected text, numbers, lists and tables, found {shown(value)}')
    return value


Classes = Annotated[int, Field(gt=0, le=MAX_CLASSES)]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments), Said('a table of names and values, such as {dropout: 0.5}')]


class Model(Group):
    arch: str = Field('fast_scnn', description='name of the network, one of `twinseg list --models`')
    num_classes: Optional[Classes] = Field(None, description="number of classes; by default the data set's")
    backbone: Optional[str] = Field(
        None, description='feature extractor of the networks that can have several: resnet18 to resnet152, vgg16_bn, ...'
    )
    preset: Optional[str] = Field(
        None,
        description="a publisher's settings of the network: davidtvs, yassouali, smp, ...; they become model_args when the "
        'configuration is read, below those given',
    )
    model_args: Arguments = Field({}, description="further arguments of the network's builder, by name")
    pretrained: Optional[PathText] = Field(
        None,
        description='weights to start from (load_from, init_cfg): a name of `twinseg list --weights`, fetched where missing, '
        'or a file, a checkpoint of TwinSeg or a published one',
    )
    reset_classifier: bool = Field(
        False, description='with pretrained: a classification layer made for other classes keeps its random initial weights'
    )
    weights_of: Optional[str] = Field(
        None,
        description='with pretrained: which weights, where the file has several: ema, last, or the name of the dict or module; '
        'by default the averaged ones, where there are these and the last',
    )
    drop_path_rate: Fraction = Field(
        0.0,
        description='classifiers: probability that a sample skips the last block (stochastic depth); it rises linearly from'
        ' 0 at the first block',
    )
    drop_path_on: Literal['branch', 'shortcut'] = Field(
        'branch',
        description='which path of a residual block drop_path_rate drops: the branch with the convolutions (timm) or the '
        'shortcut (the model zoo)',
    )

    @model_validator(mode='before')
    @classmethod
    def _expand_preset(cls, keys: Any) -> Any:
        """Arguments instead of the preset's name, so that what a checkpoint says of its network outlives the preset."""
        if not isinstance(keys, dict) or keys.get('preset') is None:
            return keys
        arch, preset, given = keys.get('arch', cls.model_fields['arch'].default), keys['preset'], keys.get('model_args', {})
        if not isinstance(arch, str) or not isinstance(preset, str) or not isinstance(given, dict):
            return keys  # the wrong type is reported by the field
        try:
            arguments = preset_arguments(preset, arch)
        except UserError as error:
            refuse(str(error), 'preset')
        if given.get('auxiliary') is False:
            arguments = without_heads(arguments)
        backbone = keys.get('backbone') or arguments.get('backbone')
        arguments.pop('backbone', None)
        others = {key: value for key, value in keys.items() if key not in ('preset', 'backbone')}
        return {**others, **({'backbone': backbone} if backbone else {}), 'model_args': {**arguments, **given}}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the network's builder, but for the number of classes."""
        given: dict[str, Any] = {'backbone': self.backbone} if self.backbone else {}
        if self.drop_path_rate:
            given |= {'drop_path_rate': self.drop_path_rate, 'drop_path_on': self.drop_path_on}
        return {**given, **self.model_args}
