"""The MindSpore model zoo's spellings of configuration keys, as its YAML files and its command line have them."""

from typing import Any, Mapping

from twinseg.common.errors import UserError
from twinseg.common.settings.messages import shown

SETS = {'ImageNet': 'imagenet'}
ARCHS = {'DDRNet23': {'arch': 'ddrnet23', 'preset': 'zoo', 'drop_path_on': 'shortcut', 'square_resize': True}}
KEYS = {'learning_rate': 'base_lr', 'keep_checkpoint_max': 'max_keep_ckpts', 'train_url': 'work_dir'}
ONLY: dict[str, tuple[Any, str]] = {  # key -> the one value that it may have, and what to do instead of others
    'in_channel': (3, 'the networks take RGB images'),
    'run_modelarts': (False, 'copy the data to the machine and give its folder as data_url'),
    'device_id': (None, 'it is the first argument of scripts/run_*.sh, which show the process this device alone'),
    'device_num': (None, 'the number of devices comes from the launcher'),
    'ddr_config': (None, 'the configuration is the first argument of twinseg'),
    'file_format': (None, 'it is an option of export'),
}


def translated(keys: Mapping[str, Any], where: str = 'configuration') -> dict[str, Any]:
    """Flat keys in the suite's spelling; UserError for what the zoo takes as a key and the suite elsewhere.

    The zoo's networks (``ARCHS``) keep their names: each sets several keys, over which others may be laid.
    """
    ours: dict[str, Any] = {}
    for key, value in keys.items():
        if key in ONLY:
            expected, advice = ONLY[key]
            if value != expected:
                raise UserError(f'{where}: {key}: {shown(value)}: not a setting here: {advice}')
            continue
        if key in KEYS and KEYS[key] in keys:
            raise UserError(f'{where}: {key} and {KEYS[key]} mean the same; give one of them')
        ours[KEYS.get(key, key)] = value
    if isinstance(ours.get('image_size'), int):
        ours['image_size'] = [ours['image_size']] * 2
    if isinstance(ours.get('set'), str) and ours['set'] in SETS:
        ours['set'] = SETS[ours['set']]
    if 'lr_scheduler' in ours and ours['lr_scheduler'] is None:
        ours['lr_scheduler'] = 'constant_lr'
    return ours
