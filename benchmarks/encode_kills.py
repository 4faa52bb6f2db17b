"""Kill an encoding at random moments (SIGKILL), let it go on, and compare its files with an undisturbed run's.

    python benchmarks/encode_kills.py --kills 10 -- corpus.jsonl --model all-MiniLM-L6-v2 --dims 64,384 --shard-rows 500

What follows ``--`` are arguments of ``mrl-text encode``. Kills hit the same folder one after the other until it is
finished, then another one; each at a random moment of what an undisturbed run takes.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

from killing import finish, kill, options


def main() -> None:
    """Print a line per kill and the verdict; exit code 1 if a file differs or a finished shard was encoded again."""
    given = options(__doc__, "mrl-text encode", 10)
    moments = random.Random(given.seed)
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        finish(_command(given.arguments, Path(scratch) / "undisturbed"))
        seconds = time.monotonic() - started
        expected = _hashes(Path(scratch) / "undisturbed")
        print(f"undisturbed: {seconds:.0f} s, {len(expected)} files", flush=True)
        folder = Path(scratch) / "killed"
        kept = True
        for number in range(given.kills):
            before = _stamps(folder)
            if (folder / "problems.jsonl").exists():  # it got to its end: begin another
                failures += _verdict(given.arguments, folder, expected, kept)
                folder, kept, before = Path(scratch) / f"killed-{number}", True, {}
            after = moments.uniform(0, seconds)
            kill(_command(given.arguments, folder), after)
            now = _stamps(folder)
            kept &= all(now.get(file) == stamp for file, stamp in before.items())
            print(f"killed after {after:5.1f} s: {len(before):3d} shards before, {len(now):3d} now", flush=True)
        failures += _verdict(given.arguments, folder, expected, kept)
    sys.exit(bool(failures))


def _verdict(arguments: list[str], folder: Path, expected: dict[str, str], kept: bool) -> bool:
    """Let it finish and say whether it is as if undisturbed; whether it is not."""
    before = _stamps(folder)
    finish(_command(arguments, folder))
    kept &= all(_stamps(folder).get(file, stamp) == stamp for file, stamp in before.items())  # .npy: none are left
    same = _hashes(folder) == expected
    print(
        f"finished: files {'identical' if same else 'DIFFERENT'}, finished shards {'kept' if kept else 'DONE AGAIN'}",
        flush=True,
    )
    return not (same and kept)


def _command(arguments: list[str], folder: Path) -> list[str]:
    return [sys.executable, "-m", "mrl_text", "encode", *arguments, "--output", str(folder)]


def _hashes(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _stamps(folder: Path) -> dict[Path, int]:
    """Finished shards and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.glob("shards/[0-9]*.parquet")}


if __name__ == "__main__":
    main()
