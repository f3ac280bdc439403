"""What all pages have in common: the head, the colours of a light and a dark theme, charts and tables."""

import html
from pathlib import Path
from string import Template

from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import write_text

FRAME = Path(__file__).with_name('frame.html')


def write_page(out: Path, title: str, body: str, style: Path) -> None:
    """Writes one self-contained HTML file. ``title``: plain text; ``body``: HTML; ``style``: file of CSS that this kind of
    page adds. UserError where it cannot be written."""
    frame = Template(FRAME.read_text(encoding='utf-8'))
    page = frame.substitute(title=html.escape(title), style=style.read_text(encoding='utf-8'), body=body)
    try:
        write_text(out, page)
    except OSError as error:
        raise UserError(f'{out}: not written: {reason_of(error)}; choose another folder') from None
