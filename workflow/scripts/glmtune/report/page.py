"""The report as one self-contained HTML page, without scripts or network access."""

from __future__ import annotations

import base64
import html


def render_html(markdown: str, picture: str) -> str:
    """Render the report as one self-contained HTML page; `picture` is the SVG of the losses."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    encoded = base64.b64encode(picture.encode("utf-8")).decode("ascii")
    body = body.replace('src="plots/loss.svg"', f'src="data:image/svg+xml;base64,{encoded}"')
    body = body.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )
    title = html.escape(markdown.splitlines()[0].lstrip("# "))
    return PAGE.format(title=title, style=STYLE, body=body)


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""

# Simplified Chinese fonts come first: others may use Japanese forms of some characters.
STYLE = """
body { font: 16px/1.6 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
       color: #1f2328; max-width: 84rem; margin: 2rem auto; padding: 0 1.5rem; }
p, ul { max-width: 56rem; }
p:has(img) { max-width: none; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3rem; }
h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #d1d9e0; padding: .3rem .5rem; vertical-align: top; }
th { background: #f6f8fa; }
th, td:first-child, td:nth-child(2) { white-space: nowrap; }
tbody tr:nth-child(even) { background: #fafbfc; }
code, pre { font-family: ui-monospace, "Noto Sans Mono CJK SC", monospace; font-size: .85em;
            background: #f6f8fa; border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .8rem 1rem; overflow-x: auto; }
pre code { padding: 0; }
img { max-width: 100%; }
"""
