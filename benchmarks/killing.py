"""What the scripts that kill share: run a command to its end, or not."""

from __future__ import annotations

import argparse
import subprocess
import sys


def options(about: str | None, command: str, kills: int) -> argparse.Namespace:
    """Number of kills, seed of their moments, and the arguments of the command."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="+", help=f"arguments of {command}, after --")
    return parser.parse_args()


def finish(command: list[str]) -> None:
    """Run it; what it printed, and the end of the script, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"it failed: {' '.join(command)}\n{done.stderr}")


def kill(command: list[str], after: float) -> bool:
    """Start it and send SIGKILL after so many seconds; whether there was something left to kill."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False
