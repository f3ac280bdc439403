"""One self-contained HTML page for one or several runs: what they reached, how they got there, and what they see."""

from pathlib import Path
from typing import Optional, Sequence

from twinseg.common.errors import UserError
from twinseg.common.inference.runs import Run, load_run
from twinseg.common.report import figures, sections
from twinseg.common.report.frame import write_page
from twinseg.common.report.records import Record, read_runs

STYLE = Path(__file__).with_name('page.css')


def write_report(
    runs: Sequence[Path], out: Path, *, pictures: int = 4, device: Optional[str] = None, png: Optional[Path] = None
) -> Path:
    """Writes the page of some run folders, their curves over each other, and returns its path.

    ``pictures`` images of the validation split are run through every network; where that is not possible (no checkpoint, no
    data, no such framework here) the page says why. ``parity*.json`` and ``export*.json`` in a run folder or beside the page
    are shown too. ``png``: folder for each chart as a picture for a paper. Raises UserError for a folder that is no run, and
    for runs over different classes.
    """
    records = read_runs(runs)
    if png is not None:
        figures.write(records, png)
    networks, excuses = _load(records, device)
    parts = [
        sections.summary(records, networks),
        sections.curves(records),
        sections.classes(records, networks),
        sections.classes_over_time(records),
        sections.speed(records, networks),
        sections.pictures(networks, excuses, pictures),
        sections.confusion(records),
        sections.files(records, out.parent),
        sections.settings(records),
    ]
    title = f'{" and ".join(dict.fromkeys(record.config.model.arch for record in records))} on {records[0].config.data.set}'
    write_page(out, title, '\n'.join(parts), STYLE)
    return out


def _load(records: Sequence[Record], device: Optional[str]) -> tuple[dict[str, Run], dict[str, str]]:
    """The networks that can be run here, and why the others cannot."""
    networks, excuses = {}, {}
    for record in records:
        try:
            networks[record.name] = load_run(record.folder, device=device)
        except UserError as error:
            excuses[record.name] = str(error)
    return networks, excuses
