"""Kill an evaluation at random moments (SIGKILL), let it go on, and compare its table with an undisturbed run's.

    python benchmarks/kills.py --kills 20 -- all-MiniLM-L6-v2 --tasks STSBenchmark --dims 32,128,384 --mirror DIR

What follows ``--`` are arguments of ``mrl-text eval``.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from killing import finish, kill, options


def main() -> None:
    """Print a line per kill and the verdict; exit code 1 if a table differs or finished work was done again."""
    given = options(__doc__, "mrl-text eval", 20)
    moments = random.Random(given.seed)
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        expected = _table(_run(given.arguments, Path(scratch) / "undisturbed"))
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.0f} s, {expected.count(chr(10)) - 1} rows")
        for number in range(given.kills):
            folder = Path(scratch) / f"killed-{number}"
            after = moments.uniform(0, seconds)
            kill(_command(given.arguments, folder), after)
            finished = _results(folder)
            same = _table(_run(given.arguments, folder)) == expected
            kept = all(_results(folder).get(file) == stamp for file, stamp in finished.items())
            failures += not (same and kept)
            print(
                f"killed after {after:5.1f} s with {len(finished):3d} results:"
                f" table {'identical' if same else 'DIFFERENT'}, finished work {'kept' if kept else 'DONE AGAIN'}",
                flush=True,
            )
    print(f"{given.kills - failures} of {given.kills} as if undisturbed")
    sys.exit(bool(failures))


def _command(arguments: list[str], folder: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "mrl-text"), "eval", *arguments, "--output", str(folder)]


def _run(arguments: list[str], folder: Path) -> Path:
    finish(_command(arguments, folder))
    return folder


def _table(folder: Path) -> str:
    return (folder / "scores.csv").read_text(encoding="utf-8")


def _results(folder: Path) -> dict[Path, int]:
    """Finished results and when each was written."""
    files = folder.glob("results/*/*/experiments/*/*.json")
    return {file: file.stat().st_mtime_ns for file in files if file.name != "model_meta.json"}


if __name__ == "__main__":
    main()
