"""The page /docs: it opens without the internet, without inline script, and serves nothing else."""

import re

import pytest

from nightproof.gateway import docs_page


def test_the_page_links_only_to_files_that_are_served_beside_it():
    content, kind = docs_page.page()
    links = re.findall(r'(?:src|href)="([^"]*)"', content.decode())

    assert kind == "text/html; charset=utf-8"
    assert set(links) - {"openapi.json"} == {f"docs/{name}" for name in docs_page.ASSETS}


def test_the_page_works_with_a_slash_at_its_end_too():
    served = docs_page.asset("")
    assert served is not None
    links = re.findall(r'(?:src|href)="([^"]*)"', served[0].decode())

    assert set(links) - {"../openapi.json"} == docs_page.ASSETS


def test_the_page_has_no_inline_script_or_style():
    content = docs_page.page()[0].decode()

    assert re.findall(r"<script[^>]*>(.*?)</script>", content) == ["", ""]
    assert "<style" not in content
    assert not re.search(r"\son\w+=", content)


@pytest.mark.parametrize("name", sorted(docs_page.ASSETS))
def test_every_asset_is_there_with_its_type(name: str):
    served = docs_page.asset(name)

    assert served is not None
    content, kind = served
    assert len(content) > 100
    expected = {"css": "text/css", "js": "text/javascript", "png": "image/png"}[name.rsplit(".", 1)[1]]
    assert kind.startswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "../__init__.py",
        "swagger-ui.css/",
        "./init.js",
        "/etc/passwd",
        "init.js\0",
        "..",
        "INIT.JS",
    ],
)
def test_nothing_else_is_served(name: str):
    assert docs_page.asset(name) is None


def test_our_script_asks_nobody_outside():
    served = docs_page.asset("init.js")
    assert served is not None
    script = served[0].decode()

    assert "http://" not in script
    assert "https://" not in script
    assert "validatorUrl: null" in script
