"""Functions of ``common/data`` import optional libraries alone; its modules import the rest at their top."""

import ast
from pathlib import Path

from twinseg.common import data

PACKAGE = 'twinseg.common.data'
FOLDER = Path(data.__file__).parent
LATE = {'pycocotools'}  # optional: it comes with the extra coco


def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module by its name."""
    trees = {}
    for path in FOLDER.rglob('*.py'):
        parts = path.relative_to(FOLDER).with_suffix('').parts
        trees['.'.join((PACKAGE, *parts)).removesuffix('.__init__')] = ast.parse(path.read_text(encoding='utf-8'))
    return trees


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that are imported anywhere in a tree: the modules, and what is imported from them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, 'relative import'
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return names


def test_only_optional_libraries_are_imported_late():
    for name, tree in modules().items():
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        late = {module for function in functions for module in imported(function)}
        assert all(any(module == known or module.startswith(f'{known}.') for known in LATE) for module in late), (name, late)
