"""The scripts of docs/cluster.md, run with stand-ins for what only a cluster has."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mrl_text import MatryoshkaEncoder

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
SCRIPTS = {
    match[2]: match[1] for match in re.finditer(r"```bash\n(#!/bin/bash\n# (\S+)\n.*?)```", PAGE.read_text(), re.DOTALL)
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment of a job on two nodes that are this machine; ``srun`` runs its command once a node."""
    tools = tmp_path / "tools"
    tools.mkdir()
    srun = f"""#!{sys.executable}
import json, os, subprocess, sys
arguments = sys.argv[1:]
options = [arguments.pop(0) for _ in list(arguments) if arguments and arguments[0].startswith("--")]
with open({str(tmp_path / "srun.jsonl")!r}, "a") as log:
    log.write(json.dumps([options, arguments, os.environ.get("RAY_ADDRESS"), os.environ["SRUN_CPUS_PER_TASK"]]) + "\\n")
nodes = [one.partition("=")[2] for one in options if one.startswith("--nodes=")] or [os.environ["SLURM_NNODES"]]
steps = [subprocess.Popen(arguments) for _ in range(int(nodes[0]))]
sys.exit(max([step.wait() for step in steps]))
"""
    log = tmp_path / "commands"
    log.touch()
    note = f'#!/bin/bash\necho $(basename $0) "$@" >> {log}\n'
    waiting = f"while [ $(grep -c '^ray start' {log}) -lt 2 ]; do sleep 0.1; done\necho python >> {log}\n"
    tools_wanted = {
        "scontrol": "#!/bin/bash\necho localhost\nsleep 0.1\necho second\n",  # as a slow one, which a closed pipe kills
        "srun": srun,
        "ray": note,
        "mrl-text": f"{note}exit ${{MRL_TEXT_EXIT:-0}}\n",
        "python": "#!/bin/bash\n" + waiting,
    }
    for name, text in tools_wanted.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost,second",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "3",
    }
    return {**os.environ, **job, "PATH": path, "MRL_TEXT_PORT": str(port), "MRL_TEXT_WAIT": "0", "OMP_NUM_THREADS": "1"}


def run(
    script: str, arguments: list[str], environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    (folder / script).write_text(SCRIPTS[script])
    command = ["bash", script, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_every_script_of_the_page_is_valid_shell(tmp_path: Path) -> None:
    assert set(SCRIPTS) == {"train.sbatch", "encode.sbatch"}
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
        subprocess.run(["bash", "-n", name], cwd=tmp_path, check=True)
        assert re.findall(r"^#SBATCH --nodes=\d+$", text, re.MULTILINE)


def test_two_nodes_train_one_model(
    cluster: dict[str, str], tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path
) -> None:
    pd.DataFrame(triplets)[["anchor", "positive"]].to_csv(tmp_path / "pairs.csv", index=False)
    recipe = {
        "model": {"name": str(tiny_bert), "max_seq_length": 16},
        "data": {"train": [{"source": "pairs.csv"}]},
        "loss": {"name": "nested_infonce", "dims": [8, 32], "gather_across_devices": True},
        "training": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "dataloader_drop_last": True,
            "logging_steps": 1,
            "use_cpu": True,
        },
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    done = run("train.sbatch", ["mine.yaml", "runs/mine"], cluster, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs" / "mine"
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in steps if "loss" in one] == [1, 2, 3, 4], "64 pairs, 8 on each of two processes"
    assert MatryoshkaEncoder(str(folder / "model"), device="cpu").encode(["the cat"], dim=8).shape == (1, 8)
    shutil.copy(tmp_path / "tools" / "ray", tmp_path / "tools" / "torchrun")  # the command line is what changes
    assert run("train.sbatch", ["mine.yaml", "runs/mine"], cluster, tmp_path).returncode == 0
    [first, second] = [json.loads(line)[1] for line in (tmp_path / "srun.jsonl").read_text().splitlines()]
    assert first[-3:] == ["mine.yaml", "--output", "runs/mine"]
    assert second[-2:] == ["runs/mine", "--resume"]


def test_ray_is_started_on_all_nodes_before_encoding(cluster: dict[str, str], tmp_path: Path) -> None:
    done = run("encode.sbatch", ["texts.csv", "out", "my-model"], cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    address = f"localhost:{cluster['MRL_TEXT_PORT']}"
    steps = [json.loads(line) for line in (tmp_path / "srun.jsonl").read_text().splitlines()]
    assert [step[3] for step in steps] == ["3", "3"]
    found = {command[2]: (options, environment) for options, command, environment, _ in steps}
    assert found["--head"] == (["--nodes=1", "--ntasks=1", "--nodelist=localhost"], address)
    assert found[f"--address={address}"] == (["--nodes=1", "--ntasks=1", "--exclude=localhost"], address)
    commands = (tmp_path / "commands").read_text().splitlines()
    encoding = "mrl-text encode texts.csv -o out --model my-model --dim 64,256 --engine ray"
    assert commands[-1] == encoding
    assert [one.split(" ")[0] for one in commands[:-1]] == ["ray", "ray", "python"]
    assert run("encode.sbatch", [], {**cluster, "MRL_TEXT_EXIT": "2"}, tmp_path).returncode == 2
