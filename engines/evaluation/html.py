"""What every report is made of: one HTML page that needs nothing beside it, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1d2430}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem;border-bottom:1px solid #d8dde6}
td{text-align:right}td:first-child,th:first-child{text-align:left}.row{display:flex;flex-wrap:wrap;gap:1.2rem}
figure{margin:0;width:320px}img{max-width:100%}svg{width:320px}figcaption,.note{color:#5a6473;font-size:13px}
.dot{fill:#2a6fdb;fill-opacity:.6}.bar{fill:#2a6fdb}.line{fill:none;stroke:#e0533d;stroke-width:2}
.rule{fill:none;stroke:#9aa4b2;stroke-dasharray:4}.frame{fill:none;stroke:#9aa4b2}
.warn{background:#fdecea;border:1px solid #e0533d;padding:.5rem 1rem}
.kept{color:#1c7c3c}.missed{color:#c0392b;font-weight:600}.not-shown{color:#5a6473}text{font-size:12px;fill:#5a6473}
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A page; `parts` are HTML, and empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of text; everything is escaped."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
