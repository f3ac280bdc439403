"""Commands for training: ``train``, ``recipe``, ``ranks``."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import Backend, ConfigName, Device, Json, Settings, choose_backend, load_config, write_json
from twinseg.common.errors import UserError


def train(
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    work_dir: Annotated[
        Optional[Path], typer.Option(help='by default runs/CONFIG-BACKEND, or runs/ARCH-BACKEND without CONFIG')
    ] = None,
    resume: Annotated[bool, typer.Option('--resume', help='continue in the work folder, exactly')] = False,
    checkpoint: Annotated[
        Optional[Path],
        typer.Option(metavar='FILE', help='continue from this checkpoint, of either backend, in a new work folder'),
    ] = None,
    allow_changed: Annotated[
        Optional[str],
        typer.Option(metavar='KEY,KEY,...', help='settings in which a continued run may differ from its beginning'),
    ] = None,
) -> None:
    """Trains a network; leaves config.yaml, metrics.jsonl, log.txt, TensorBoard events and checkpoints/."""
    from twinseg.common.parallel import launch
    from twinseg.common.training import loop, setup
    from twinseg.common.training.resume import check_names

    allowed = [name.strip() for name in (allow_changed or '').split(',') if name.strip()]
    check_names(allowed)
    if allowed and not (resume or checkpoint):
        raise UserError('--allow-changed: is for a run that is continued, with --resume or --checkpoint')
    if config is None and resume and work_dir:
        config = str(work_dir / 'config.yaml')
    chosen = load_config(config, settings, checkpoint)
    name = choose_backend(chosen, backend)
    folder = work_dir or setup.default_folder(chosen, Path(config).stem if config else None, name)
    if config is None and work_dir is None and launch.rank() == 0:
        print(f'{checkpoint}: continued in {folder}; --work-dir names another folder')
    loop.train(chosen, name, device, folder, resume=resume, start_from=checkpoint, allow_changed=allowed)


def recipe(
    config: ConfigName = None,
    settings: Settings = None,
    devices: Annotated[int, typer.Option(min=1, help='devices that train')] = 1,
    batch_size: Annotated[Optional[int], typer.Option(min=1, help="images on each; by default the recipe's")] = None,
    whole: Annotated[bool, typer.Option('--print', help='print the whole configuration, ready to be a file')] = False,
    schema: Annotated[bool, typer.Option('--schema', help='print the JSON schema of configurations, for editors')] = False,
    json_file: Json = None,
) -> None:
    """Shows what a recipe becomes on other devices than its publisher's: global batch, learning rate and steps, compared.

    --print prints the configuration instead, with every key; --schema, without CONFIG, the schema for editors.
    """
    from twinseg.common import config as configuration
    from twinseg.common import console
    from twinseg.common.settings import schema as schemas
    from twinseg.common.training import rescale

    if schema:
        if config is not None or whole or settings:
            raise UserError('--schema: it is that of all configurations; leave CONFIG, --print and --set out')
        print(schemas.text(configuration.GROUPS))
        return
    if whole:
        print(configuration.dump(load_config(config, settings)), end='')
        return
    rows = rescale.schedules_for(load_config(config, settings), devices, batch_size)
    console.show(
        f'{config}: published, and on {devices} device{"s" * (devices > 1)}',
        [
            {key: f'{value:.4g}' if isinstance(value, float) else value for key, value in row.items() if key != 'settings'}
            for row in rows
        ],
    )
    for row in rows[1:]:
        console.show_facts({row['way']: rescale.command(row, str(config))})
    write_json(json_file, {'rows': rows})


def ranks(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar='FILE | HOST...',
            help='a rank table to check, or its hosts, such as 10.0.0.1:0=192.168.100.101,1=192.168.101.101 (device=address)',
        ),
    ],
    out: Annotated[Path, typer.Option(metavar='FOLDER', help='folder for the table of the hosts')] = Path('.'),
) -> None:
    """Writes a rank table for Ascend devices, or checks one and prints the devices of every host, a line each."""
    from twinseg.common.parallel import rank_table

    if len(words) == 1 and '=' not in words[0]:
        print(*(','.join(map(str, devices)) for devices in rank_table.read(Path(words[0]))), sep='\n')
        return
    hosts = [rank_table.parse_host(word) for word in words]
    if len(dict(hosts)) < len(hosts):
        raise UserError('ranks: a host is given twice; give all of its devices at once')
    print(rank_table.write(out, dict(hosts)))
