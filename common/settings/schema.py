"""The JSON schema of configuration files: editors complete keys, show their descriptions and underline mistakes by it.

``common/configs/schema.json`` holds it; the last line of every recipe's head names that file for the YAML language server.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from twinseg.common.settings import published_scores, zoo_keys
from twinseg.common.settings.recipes import RECIPES

FILE = RECIPES / 'schema.json'
MODELINE = '# yaml-language-server: $schema='


def text(groups: Mapping[str, type[BaseModel]]) -> str:
    """The schema of flat files with the keys of some groups, as JSON."""
    properties: dict[str, Any] = {
        'base': {
            'description': 'recipes or files whose keys are taken first',
            'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}],
        },
        published_scores.KEY: {'description': 'what others scored with the settings of this file'},
    }
    definitions: dict[str, Any] = {}
    for group in groups.values():
        schema = group.model_json_schema()
        definitions |= schema.get('$defs', {})
        properties |= {key: _plain(value) for key, value in schema['properties'].items()}
    for spelling, key in zoo_keys.KEYS.items():
        properties.setdefault(spelling, {**properties.get(key, {}), 'description': f"the model zoo's spelling of {key}"})
    properties |= {
        key: {'const': value, 'description': f'of the model zoo; {advice}'} for key, (value, advice) in zoo_keys.ONLY.items()
    }
    for key, kind in (
        ('image_size', {'type': 'integer'}),
        ('lr_scheduler', {'type': 'null'}),
        ('set', {'enum': list(zoo_keys.SETS)}),
    ):
        about = properties[key].pop('description')  # what the zoo's files say beside ours
        properties[key] = {'description': about, 'anyOf': [properties[key], kind]}
    whole = {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'TwinSeg configuration',
        'type': 'object',
        'additionalProperties': False,
        'properties': properties,
        **({'$defs': definitions} if definitions else {}),
    }
    return json.dumps(whole, indent=1)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """A key's schema without its generated title."""
    return {key: part for key, part in value.items() if key != 'title'}
