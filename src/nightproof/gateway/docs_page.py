"""The page `/docs`: Swagger UI on our `/openapi.json`, from the package it is shipped in.

Called by the gateway's routes. Promises that nothing comes from the internet, that the page has no inline
script, and that only the names listed here can be asked for. Never builds a path from what a caller sent.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

Served = tuple[bytes, str]
"""Content, and its content type."""

_HTML = "text/html; charset=utf-8"
_OUR_SCRIPT = "init.js"
_CONTENT_TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    _OUR_SCRIPT: "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
ASSETS = frozenset(_CONTENT_TYPES)
"""The files beside the page: all there are."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nightproof: the API</title>
<link rel="icon" type="image/png" href="{folder}favicon-32x32.png">
<link rel="stylesheet" href="{folder}swagger-ui.css">
</head>
<body>
<noscript>This page needs JavaScript; <a href="{root}openapi.json">openapi.json</a> says the same.</noscript>
<div id="swagger-ui"></div>
<script src="{folder}swagger-ui-bundle.js"></script>
<script src="{folder}init.js"></script>
</body>
</html>
"""


def page() -> Served:
    """Return the page itself, for `/docs`."""
    return _PAGE.format(folder="docs/", root="").encode(), _HTML


def asset(name: str) -> Served | None:
    """Return what lies under `/docs/`: one of `ASSETS`, the page for the empty name, or None."""
    if not name:
        # Links are relative, so that the page also works under a proxy's prefix.
        return _PAGE.format(folder="", root="../").encode(), _HTML
    if name not in ASSETS:
        return None
    return _content(name), _CONTENT_TYPES[name]


@cache
def _content(name: str) -> bytes:
    if name == _OUR_SCRIPT:
        return resources.files("nightproof.gateway").joinpath("docs_init.js").read_bytes()
    return _swagger_ui().joinpath(name).read_bytes()


def _swagger_ui() -> Traversable:
    """Return the folder of the newest Swagger UI in the package."""
    folders = resources.files("swagger_ui_bundle").joinpath("vendor").iterdir()
    return max((folder for folder in folders if folder.name.startswith("swagger-ui-")), key=_version)


def _version(folder: Traversable) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.removeprefix("swagger-ui-").split(".") if part.isdigit())
