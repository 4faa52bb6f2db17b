"""The command ``mrl-text doctor``."""

from __future__ import annotations

import json
import os

import typer

from mrl_text.cli.common import AsJson, print_table


def doctor(as_json: AsJson = False) -> None:
    """Show versions, processor, backends and what is missing: for a bug report, or when something is slow."""
    from mrl_text.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        machine, cache = found["machine"], found["cache"]
        backends = {name: ", ".join(known) if known else "not installed" for name, known in found["backends"].items()}
        extras = {
            name: "there" if extra["there"] else f"lacks {', '.join(extra['lacks'])}: pip install 'mrl-text[{name}]'"
            for name, extra in found["extras"].items()
        }
        models = {
            f"model {name}": f"packaged, version {known}" if known else "not installed as a package"
            for name, known in found["packaged models"].items()
        }
        if limit := os.environ.get("OMP_NUM_THREADS"):
            machine["threads"] = f"{machine['threads']} (OMP_NUM_THREADS={limit})"
        rows = {
            **{name: found[name] for name in ("mrl-text", "python")},
            **{name: value for name, value in machine.items() if value is not None},
            **{f"backend {name}": known for name, known in backends.items()},
            **{f"extra {name}": known for name, known in extras.items()},
            "cache": f"{cache['folder']}, {cache['gb']} GB, {cache['gb free']} GB free",
            **models,
            "network": "not used (HF_HUB_OFFLINE)" if found["offline"] else "used where a model is not here",
            **{name: known or "not installed" for name, known in found["versions"].items()},
        }
        print_table([{" ": name, "": str(value)} for name, value in rows.items()])
        typer.echo("\n" + ("\n".join(found["problems"]) or "No problem found."))
    if found["problems"]:
        raise typer.Exit(1)
