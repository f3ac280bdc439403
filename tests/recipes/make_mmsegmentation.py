"""Makes ``mmsegmentation.json``: what mmsegmentation's own files say for the recipes that we have of it.

    pip download --no-deps mmsegmentation==1.2.2 && unzip mmsegmentation-*.whl -d WHEEL && pip install mmengine-lite==0.10.7
    python tests/recipes/make_mmsegmentation.py WHEEL

mmengine resolves ``_base_``. What all files agree in is stored once, under the key ``all``. Of the networks only the losses,
norms, initial weights and ``align_corners`` are kept: what they compute is held by ``tests/golden``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / 'common' / 'configs'
LOADING = ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')
HEAD = ('loss_decode', 'sampler', 'align_corners', 'norm_cfg', 'num_classes')


def flat(value: Any, name: str = '') -> dict[str, Any]:
    """Dotted key -> value of nested tables; lists are values."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, f'{name}.{part}'.lstrip('.')).items()}


def pipeline(steps: list[dict]) -> dict[str, Any]:
    """Transform -> its arguments, and their order."""
    steps = [dict(step) for step in steps if step['type'] not in LOADING]
    return {'order': [step['type'] for step in steps], **{step.pop('type'): step for step in steps}}


def kept(config: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a resolved configuration and its entry in metafile.yaml."""
    model, loader = config['model'], config['train_dataloader']
    datasets = loader['dataset'].get('datasets', [loader['dataset']])
    heads = model.get('auxiliary_head', [])
    results = metadata['Results'] if isinstance(metadata['Results'], dict) else metadata['Results'][0]
    backbone = model['backbone']
    return flat(
        {
            'optim_wrapper': config['optim_wrapper'],
            'param_scheduler': config['param_scheduler'],
            'train_cfg': config['train_cfg'],
            'randomness': config.get('randomness', {}),
            'checkpoint': config['default_hooks']['checkpoint']['interval'],
            'batch_size': loader['batch_size'],
            'shuffle': loader['sampler']['shuffle'],
            'dataset': datasets[0]['type'],
            'splits': [part.get('ann_file') or part['data_prefix']['img_path'] for part in datasets],
            'val_split': config['val_dataloader']['dataset'].get('ann_file')
            or config['val_dataloader']['dataset']['data_prefix']['img_path'],
            'train': pipeline(datasets[0]['pipeline']),
            'test': pipeline(config['test_pipeline']),
            'scales': config['img_ratios'],
            'preprocessor': model['data_preprocessor'],
            'mode': model['test_cfg']['mode'],
            'pretrained': model.get('pretrained')
            or backbone.get('init_cfg')
            or backbone.get('backbone_cfg', {}).get('init_cfg'),
            'norm': backbone.get('norm_cfg') or backbone['backbone_cfg']['norm_cfg'],
            'decode_head': {key: model['decode_head'][key] for key in HEAD if key in model['decode_head']},
            'auxiliary_head': [
                {key: head[key] for key in HEAD if key in head} for head in (heads if isinstance(heads, list) else [heads])
            ],
            'devices': metadata['Metadata']['Training Resources'],
            'scores': results['Metrics'],
        }
    )


def main() -> None:
    configs = Path(sys.argv[1]) / 'mmseg' / '.mim' / 'configs'
    models = [entry for path in configs.glob('*/metafile.yaml') for entry in yaml.safe_load(path.read_text())['Models']]
    metadata = {entry['Name']: entry for entry in models}
    table = {}
    for path in sorted(RECIPES.glob('*/*.yaml')):
        if path.stem in metadata:
            file = configs.parent / metadata[path.stem]['Config']
            config = json.loads(json.dumps(Config.fromfile(file)._cfg_dict.to_dict()))
            table[path.stem] = kept(config, metadata[path.stem])
    first = next(iter(table.values()))
    common = {key: value for key, value in first.items() if all(recipe.get(key) == value for recipe in table.values())}
    rest = {name: {key: recipe[key] for key in recipe if key not in common} for name, recipe in table.items()}
    lines = [f'"{name}": {json.dumps(recipe)}' for name, recipe in {'all': common, **rest}.items()]
    (HERE / 'mmsegmentation.json').write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


if __name__ == '__main__':
    main()
