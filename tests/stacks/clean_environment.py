"""Run pages of docs/stacks in environments that have what the page says to install, and nothing else.

    python tests/stacks/clean_environment.py duckdb sqlite-vec -c constraints.txt

For each page an environment is made, the page's own line is installed (this project from this checkout, other packages
in the newest versions that fit, unless an option for pip says otherwise), its commands and its Python are run in an
empty folder with the corpus, and what it prints is compared with what it shows; the Python is run twice, since readers
do, but for search servers. Options that are not known here go to pip. Pages of search servers need one at http://localhost:9200.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stacks.pages import CORPUS, NAMES, SERVER, Page

logger = logging.getLogger("clean_environment")


def run(page: Page, folder: Path, pip_flags: list[str]) -> list[str]:
    """The lines that a page prints in an environment of its own, of the first run that prints others than it shows.

    Args:
        page: what to install and to run.
        folder: an empty one.
        pip_flags: for ``pip install``.

    Raises:
        subprocess.CalledProcessError: a command of the page failed.
    """
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / "bin"
    ours = f"{Path(__file__).parents[2]}{page.extras}"
    subprocess.run([programs / "python", "-m", "pip", "install", "-q", *pip_flags, ours, *page.packages], check=True)
    work = folder / "work"
    work.mkdir()
    for name, text in {CORPUS.name: CORPUS.read_text("utf-8"), "page.py": page.code, **page.files}.items():
        (work / name).write_text(text, encoding="utf-8")
    for command in page.commands[1:]:
        subprocess.run([programs / command[0], *command[1:]], cwd=work, check=True)
    lines: list[str] = []
    for _ in range(1 if SERVER in page.code else 2):
        done = subprocess.run([programs / "python", "page.py"], cwd=work, check=True, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.splitlines()
        if lines != page.printed:
            break
    return lines


def main() -> int:
    """Exit code 1 where a page printed something else than it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", choices=NAMES, metavar="PAGE", help=", ".join(NAMES))
    arguments, pip_flags = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = []
    for name in arguments.pages:
        page = Page.read(name)
        with tempfile.TemporaryDirectory() as folder:
            found = run(page, Path(folder), pip_flags)
            if found != page.printed:
                failed.append(name)
            logger.info("%s: %s", name, "as the page shows" if name not in failed else f"printed {found}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
