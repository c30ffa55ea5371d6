"""The page /docs: what the API takes, written from its OpenAPI description; loads nothing."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}"
    "pre{overflow:auto;padding:.75rem;border:1px solid;border-radius:.4rem}"
)


def describe_api(schema: Mapping[str, Any]) -> str:
    """HTML with every route and type of an OpenAPI description."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>glmtune API</title>",
        "<meta name=viewport content='width=device-width'><meta name=color-scheme "
        f"content='light dark'><style>{STYLE}</style><h1>glmtune API</h1>",
        "<p>For programs: <a href=openapi.json>openapi.json</a>. <a href=./>The page</a>.</p>",
    ]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            told = html.escape(route.get("description", ""))
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{told}</p>")
            parts += [f"<p>takes <a href='#{name}'>{name}</a></p>" for name in _taken(route)]
    for name, kind in schema.get("components", {}).get("schemas", {}).items():
        text = html.escape(json.dumps(kind, ensure_ascii=False, indent=2))
        parts.append(f"<h2 id='{name}'>{name}</h2><pre>{text}</pre>")
    return "\n".join(parts)


def _taken(route: Mapping[str, Any]) -> list[str]:
    """The names of the types that a route's body has."""
    contents = route.get("requestBody", {}).get("content", {}).values()
    return [content["schema"]["$ref"].rpartition("/")[2] for content in contents]
