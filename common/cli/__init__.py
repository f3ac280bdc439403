"""The ``twinseg`` command: commands by name, and the edge at which errors become one line and an exit status.

A command imports what it works with when it is called, so that ``--help`` and ``--version`` answer at once.
"""

import io
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Callable, Optional, Sequence

import typer

from twinseg.common.cli import data, deployment, inference, measuring, reporting, showing, tracing, training, weights
from twinseg.common.cli.help import Command, Commands
from twinseg.common.errors import Interrupted, UserError, reason_of
from twinseg.common.host.memory import MORE, is_out_of_memory, keep_freed_memory
from twinseg.common.printable import ESCAPED, one_line

COMMANDS: dict[str, Callable[..., None]] = {
    'train': training.train,
    'eval': inference.evaluate,
    'predict': inference.predict,
    'demo': showing.demo,
    'submit': inference.submit,
    'export': deployment.export,
    'quantize': deployment.quantize,
    'preprocess': deployment.preprocess,
    'postprocess': deployment.postprocess,
    'convert': weights.convert,
    'card': showing.card,
    'parity': measuring.parity,
    'trace': tracing.trace,
    'benchmark': measuring.benchmark,
    'browse': data.browse,
    'prepare': data.prepare,
    'list': reporting.list_,
    'recipe': training.recipe,
    'ranks': training.ranks,
    'report': reporting.report,
    'results': reporting.results,
}

PAGES = {'-h', '--help', '--version', '--show-completion', '--install-completion'}  # options that print and do nothing
# commands that take the same large blocks of memory again and again
RUNNING_NETWORKS = ('train', 'eval', 'predict', 'submit', 'benchmark')


def _print_version(asked: bool) -> None:
    if asked:
        from twinseg.common.host.version import version

        print(f'twinseg {version()}')
        raise typer.Exit


def global_options(
    version: Annotated[
        bool, typer.Option('--version', help='Print the version and exit.', is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Semantic segmentation networks, each in PyTorch and in MindSpore."""


def make_app(called: Optional[Sequence[str]] = None) -> typer.Typer:
    """All commands; with ``called``, the others are names alone, since reading the options of all takes longer than a page of
    help does otherwise."""
    app = typer.Typer(
        cls=Commands,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={'help_option_names': ['-h', '--help']},
    )
    app.callback()(global_options)
    for name, command in COMMANDS.items():
        app.command(name, cls=Command)(command if called is None or name in called else _not_called)
    app.command('conversion-facts', hidden=True)(deployment.conversion_facts)
    return app


def _not_called() -> None:
    pass


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 failed, 2 bad input; of a training that saved its step and is
    to be resumed, 75 after SIGTERM, 130 after SIGINT, 129 after SIGHUP."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index('--') if '--' in words else len(words)  # behind it are names alone
    debug = '--debug' in words[:end]
    words, plugins = _without_plugins([word for word in words[:end] if word != '--debug'] + words[end:])
    words = _without_local_rank(words)
    if not _are_for_help(words):
        from twinseg.common.cli.notices import show_warnings_in_one_line

        show_warnings_in_one_line()
    if arguments is None and words[:1] and words[0] in RUNNING_NETWORKS:  # a program, not a call from Python
        keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding, or names in any bytes, end no command
            stream.reconfigure(errors=ESCAPED)
    status = 1
    try:
        status = _run(words, plugins, debug)
    finally:
        if samples := sys.modules.get('twinseg.common.data.thread_loader'):
            samples.leave_hanging(status)
    return status


def _run(words: list[str], plugins: list[str], debug: bool) -> int:
    """The command's exit status, errors explained."""
    try:
        _load(plugins, words)
        app = make_app(None if '_TWINSEG_COMPLETE' in os.environ else words)
        return app(_repeat_set(words) or ['--help'], prog_name='twinseg', standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except Interrupted as error:
        print(one_line(f'twinseg: {error}'), file=sys.stderr)
        return error.status
    except Exception as error:
        if debug:
            raise
        return explain(error)


def _without_local_rank(words: list[str]) -> list[str]:
    """The words without ``--local-rank=N``, which ``python -m torch.distributed.launch`` adds; N goes into the environment,
    where torchrun has it."""
    for word in words:
        if (match := re.fullmatch('--local[-_]rank=([0-9]+)', word)) is not None:
            os.environ.setdefault('LOCAL_RANK', match[1])
            return [other for other in words if other != word]
    return words


def _without_plugins(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without ``--plugin FILE``, which any command takes anywhere, and the files."""
    left: list[str] = []
    files: list[str] = []
    given = iter(words)
    for word in given:
        if word == '--':
            return [*left, word, *given], files
        if word == '--plugin':
            files.append(next(given, ''))
        elif word.startswith('--plugin='):
            files.append(word.partition('=')[2])
        else:
            left.append(word)
    return left, files


def _load(files: list[str], words: list[str]) -> None:
    """Registers plugins; installed ones only for a command that does something."""
    if not files and (_are_for_help(words) or not _are_installed()):
        return
    from twinseg.common.backend import load_installed_plugins, load_plugin

    for file in files:
        load_plugin(Path(file))
    load_installed_plugins()


def _are_for_help(words: list[str]) -> bool:
    """Whether the words ask for a page, and for nothing to be done."""
    return not words or not PAGES.isdisjoint(words)


def _are_installed() -> bool:
    """Whether a package offers plugins."""
    from importlib.metadata import entry_points  # which --help does without

    from twinseg.common.plugins import GROUP

    return bool(entry_points(group=GROUP))


def explain(error: Exception) -> int:
    """Says on stderr, in one line, why a command ends; the exit status."""
    if isinstance(error, UserError):
        message, status = str(error), error.status
    elif hasattr(error, 'format_message'):  # typer's own: a wrong option or value
        context = getattr(error, 'ctx', None)
        message, status = f'{error.format_message()} (`{context.command_path if context else "twinseg"} --help`)', 2
    elif isinstance(error, UnicodeEncodeError):
        name, status = ascii(error.object)[:100], 2
        message = f'{name} cannot be a name in the locale of this process; set LC_ALL=C.UTF-8 or PYTHONUTF8=1'
    elif isinstance(error, BrokenPipeError):
        return 1
    elif is_out_of_memory(error):
        message, status = f'it takes {MORE} ({reason_of(error)}); smaller images (crop_size, --size) or batches take less', 2
    elif isinstance(error, OSError):
        message, status = f'{f"{error.filename}: " if error.filename else ""}{reason_of(error)}', 2
    else:
        message, status = f'internal error: {type(error).__name__}: {error}; run again with --debug and report what it shows', 1
    from twinseg.common.parallel.launch import error_prefix

    print(one_line(f'twinseg: error: {error_prefix()}{message}'), file=sys.stderr)
    return status


def _repeat_set(words: list[str]) -> list[str]:
    """``--set a=1 b=2`` as ``--set a=1 --set b=2``."""
    expanded: list[str] = []
    inside = False
    for word in words:
        if inside and '=' in word and not word.startswith('-') and expanded[-1] != '--set':
            expanded.append('--set')
        inside = word == '--set' or inside and not word.startswith('-') and '=' in word
        expanded.append(word)
    return expanded
