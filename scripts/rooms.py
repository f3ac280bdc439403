"""Rooms of a checkout, by its imports: python scripts/rooms.py [FOLDER], by default this checkout.

Prints rooms with their size and the rooms that they import, floors, and circles. A room is a module or a folder of ``common/``,
or one of the implementations. Every import statement counts, also those inside functions and those for types alone. Tokens
are Python's, without comments; unlike lines they do not change when code is formatted.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path

PACKAGES = ('common', 'pytorch_impl', 'mindspore_impl', 'twinseg')
DYNAMIC = ('import_module', '__import__')
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
Graph = dict[str, set[str]]  # module or room -> those that it imports


def modules(folder: Path) -> dict[str, Path]:
    """Files of the packages of a checkout by module name; the prefix ``twinseg.`` is left out."""
    paths = [path for package in PACKAGES for path in sorted((folder / package).glob('**/*.py'))]
    return {'.'.join(_parts(path.relative_to(folder))): path for path in paths if not _is_linked(path, folder)}


def _is_linked(path: Path, folder: Path) -> bool:
    """True where a file is reached through one of the links of ``twinseg/``, which Python 3.13 follows."""
    return path.resolve() != folder.resolve() / path.relative_to(folder)


def _parts(path: Path) -> tuple[str, ...]:
    return path.parent.parts if path.name == '__init__.py' else path.with_suffix('').parts


def import_graph(files: dict[str, Path]) -> Graph:
    """Every module with the modules of the checkout that it imports, at its top or inside a function."""
    return {name: _imports(name, path, files) - {name} for name, path in files.items()}


def _imports(name: str, path: Path, files: dict[str, Path]) -> set[str]:
    imported = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
            base = parents[: len(parents) + 1 - node.level] if node.level else []
            source = '.'.join([*base, *([node.module] if node.module else [])])
            imported += [f'{source}.{alias.name}' for alias in node.names]
    return {module for target in imported if (module := _module(target, files))}


def _module(target: str, files: dict[str, Path]) -> str | None:
    """The module that an imported name is, or that it lies in; None outside the checkout."""
    parts = target.split('.')
    if parts[0] == 'twinseg' and len(parts) > 1 and parts[1] in PACKAGES:
        parts = parts[1:]
    names = ('.'.join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in files), None)


def dynamic_imports(files: dict[str, Path]) -> dict[str, list[int]]:
    """Modules that import by a computed name, with the lines where they do."""
    lines: dict[str, list[int]] = {}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                words = {alias.name for alias in node.names}
            elif isinstance(node, (ast.Attribute, ast.Name)):
                words = {node.attr if isinstance(node, ast.Attribute) else node.id}
            else:
                continue
            if words & set(DYNAMIC):
                lines.setdefault(name, []).append(node.lineno)
    return lines


def room(module: str) -> str:
    """The room of a module."""
    parts = module.split('.')
    return parts[1] if parts[0] == 'common' and len(parts) > 1 else parts[0]


def room_graph(graph: Graph) -> Graph:
    """Rooms and the other rooms that they import."""
    rooms: Graph = {room(name): set() for name in graph}
    for name, imported in graph.items():
        rooms[room(name)] |= {room(other) for other in imported} - {room(name)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules or rooms of which each reaches all others by imports."""
    reached = {name: _reached(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(start: str, graph: Graph) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def floors(graph: Graph) -> list[list[str]]:
    """Rooms by height, the lowest first: each is one floor above the highest that it imports; circles share a floor."""
    members = {name: group for group in circles(graph) for name in group}
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            group = members.get(name, [name])
            below = {other for member in group for other in graph[member]} - set(group)
            level = 1 + max((height(other) for other in below), default=-1)
            heights.update(dict.fromkeys(group, level))
        return heights[name]

    for name in graph:
        height(name)
    return [sorted(name for name in graph if heights[name] == level) for level in range(max(heights.values()) + 1)]


def size(path: Path) -> tuple[int, int]:
    """Lines that are not blank, and tokens."""
    text = path.read_text(encoding='utf-8')
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in SILENT]
    return sum(bool(line.strip()) for line in text.splitlines()), len(tokens)


def table(title: str, rows: dict[str, list[object]], columns: str) -> None:
    """A table in Markdown."""
    names = [title, *columns.split()]
    print(f'\n| {" | ".join(names)} |\n|{"---|" * len(names)}')
    for name, values in rows.items():
        print(f'| {" | ".join(map(str, [name, *values]))} |')


def sizes(files: dict[str, Path], key: Callable[[str], str]) -> dict[str, list[object]]:
    """Files, lines and tokens of the modules that ``key`` puts together."""
    totals: dict[str, list[int]] = {}
    for name, path in files.items():
        total = totals.setdefault(key(name), [0, 0, 0])
        for index, count in enumerate((1, *size(path))):
            total[index] += count
    return {name: list(totals[name]) for name in sorted(totals)}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    files = modules(folder)
    if not files:
        print(f'rooms.py: {folder}: no modules of TwinSeg; expected a checkout', file=sys.stderr)
        sys.exit(2)
    graph = import_graph(files)
    rooms = room_graph(graph)
    table('folder', sizes(files, lambda name: f'{name.partition(".")[0]}/'), 'files lines tokens')
    rows = {name: [*row, ', '.join(sorted(rooms[name]))] for name, row in sizes(files, room).items()}
    table('room', rows, 'files lines tokens imports')
    core = {name: imported - set(PACKAGES) for name, imported in rooms.items() if name not in PACKAGES}
    print(f'\ncommon/: {len(core)} rooms, {sum(map(len, core.values()))} arrows between them')
    for level, names in reversed(list(enumerate(floors(core), start=1))):
        print(f'floor {level}: {", ".join(names)}')
    for title, groups in (('modules', circles(graph)), ('rooms', circles(rooms))):
        print(f'circles of {title}: {"; ".join(", ".join(group) for group in groups) or "none"}')
    dynamic = [f'{name}:{line}' for name, lines in dynamic_imports(files).items() for line in lines]
    print(f'imports by a computed name: {", ".join(dynamic) or "none"}')


if __name__ == '__main__':
    main()
