"""Functions of more than seven parameters say why in their docstrings (docs/style.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 7
FILES = [path for folder in ('common', 'pytorch_impl', 'mindspore_impl', 'twinseg') for path in (ROOT / folder).rglob('*.py')]
BUILDERS = ('models', 'layers')  # arguments of networks and layers are named one by one, as users give them
REASON = 'parameters'


def long_signatures(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([argument for argument in arguments if argument.arg not in ('self', 'cls')]) > LIMIT:
                yield node


def is_exempt(path, node):
    """Options of a command are its parameters; so are the arguments of a network."""
    is_command = path.parent.name == 'cli' and 'Annotated' in ast.unparse(node.args)
    return is_command or path.parent.name in BUILDERS


@pytest.mark.parametrize('path', sorted({path.resolve() for path in FILES}), ids=lambda path: str(path.relative_to(ROOT)))
def test_long_signatures_say_why(path):
    without = [
        f'{path.name}:{node.lineno} {node.name}'
        for node in long_signatures(path)
        if not is_exempt(path, node) and REASON not in (ast.get_docstring(node) or '')
    ]
    assert not without, f'more than {LIMIT} parameters, and no word on why in the docstring: {without}'
