"""`lmrs models`: the pre-trained language models that have a name, and fetching one."""

from __future__ import annotations

import json
from typing import Any

import click

from lmrs.cli import options

TINY_ABOUT = "random weights, for trying things out; no file needed"


@click.group()
def models() -> None:
    """Pre-trained language models (backbones): list those with a name, fetch one."""


@models.command("list")
@click.option(
    "--cache", type=click.Path(path_type=str), help="Folder of fetched models [default: LMRS_CACHE, else ~/.cache/lmrs]."
)
@options.as_json
def list_(cache: str | None, as_json: bool) -> None:
    """The backbones that have a name: family, size, licence, origin, and whether they are here."""
    found = _rows(cache)
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        here = f"here: {each['path']}" if each["here"] else f"not fetched ({each['download'] / 1e6:,.0f} MB): lmrs models get "
        here += "" if each["here"] else each["name"]
        size = f"{each['parameters'] / 1e6:,.1f} M parameters, {each['context']:,} tokens" if each["parameters"] else "tiny"
        click.echo(f"{each['name']}: {each['family']}, {size}, {each['licence']}\n    {each['does']}; {each['about']}")
        if each["origin"]:
            click.echo(f"    {each['origin']}, in the package {each['package']}\n    {here}")
    click.echo("FOLDER\n    your own: config.json, *.safetensors and tokenizer.json, as save_pretrained writes them")
    click.echo("ORG/MODEL\n    a model of the Hugging Face hub; lmrs models get ORG/MODEL fetches it where there is a network")


@models.command()
@click.argument("name")
@click.option("--cache", type=click.Path(path_type=str), help="Folder to keep it in [default: LMRS_CACHE, else ~/.cache/lmrs].")
@click.option("--accept-terms", is_flag=True, help="You agree to the model's own terms, where it has such.")
@options.quiet
@options.as_json
def get(name: str, cache: str | None, accept_terms: bool, quiet: bool, as_json: bool) -> None:
    """Fetch the backbone NAME (see lmrs models list), check it and keep it. Nothing is installed."""
    from lmrs.language import fetching, known
    from lmrs.progress import Reporter

    if name in known.TINY:
        path = None
    else:
        with Reporter(quiet=quiet) as reporter:
            path = str(fetching.get(name, cache=cache, reporter=reporter, accept_terms=accept_terms))
    if as_json:
        click.echo(json.dumps({"name": name, "path": path}))
    else:
        click.echo(f"{name}: in {path}" if path is not None else f"{name} is made in code: there is nothing to fetch")


def _rows(cache: str | None) -> list[dict[str, Any]]:
    from lmrs.language import known
    from lmrs.language.family import ABILITIES

    rows: list[dict[str, Any]] = []
    for each in known.KNOWN:
        path = known.kept(each, cache)
        rows.append(
            {
                "name": each.name,
                "family": each.family,
                "does": ABILITIES[each.family],
                "about": each.about,
                "licence": each.licence,
                "needs_terms": bool(each.terms),
                "parameters": each.parameters,
                "context": each.context,
                "origin": each.origin,
                "package": each.sources[0][0].requirement,
                "download": each.size,
                "kept": each.kept,
                "here": path.is_dir(),
                "path": str(path) if path.is_dir() else None,
            }
        )
    for name, family in known.TINY.items():
        rows.append(
            {
                "name": name,
                "family": family,
                "does": ABILITIES[family],
                "about": TINY_ABOUT,
                "licence": "Apache-2.0",
                "needs_terms": False,
                "parameters": 0,
                "context": known.TINY_CONTEXT,
                "origin": "",
                "package": "",
                "download": 0,
                "kept": 0,
                "here": True,
                "path": None,
            }
        )
    return rows
