"""Encoding on a Ray cluster: Ray Data hands shards to actors, one per device, and gives a killed one's to another.

The cluster is the one that ``RAY_ADDRESS`` names, else one of this machine's devices that lasts as long as this
process. A shard is sent out as the rows to read, a few numbers, and comes back as the bytes of its file, so that
workers need the input files and the model under the same paths; only this process writes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mrl_text.encoding.encoders import load_encoder
from mrl_text.encoding.job import Job, Segment
from mrl_text.encoding.shards import encode_shards, open_reader, prepare

if TYPE_CHECKING:
    import numpy as np

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers run this environment as it is
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OF_A_NAMED_CLUSTER = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # of half a minute; Ray's default is 20, in silence
_INSTALL = "the engine ray needs Ray: pip install 'mrl-text[ray]'"
_ANSWERED_WITHIN = 30.0  # seconds; a cluster that was just started needs some
_ONE_TRY = 5.0  # seconds

logger = logging.getLogger(__name__)


def reach_cluster() -> None:
    """Wait for a bounded time until the cluster that ``RAY_ADDRESS`` names takes connections, and say so.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: an address of another form.
        ConnectionError: nobody answers.
    """
    if find_spec("ray") is None:
        raise ModuleNotFoundError(_INSTALL)
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):  # found, or started, on this machine
        return
    place = _place(address)
    until = time.monotonic() + _ANSWERED_WITHIN
    said = False
    while (left := until - time.monotonic()) > 0:
        try:
            socket.create_connection(place, timeout=min(left, _ONE_TRY)).close()
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                break
            if not said:
                said = True
                logger.warning("%s does not answer (%s): trying for %g s", address, reason, _ANSWERED_WITHIN)
            time.sleep(max(0.0, min(1.0, until - time.monotonic())))
        else:
            return
    raise ConnectionError(_nobody(address, reason))


def _place(address: str) -> tuple[str, int]:
    if address.startswith("ray://"):
        raise ValueError(
            f"RAY_ADDRESS={address} is for Ray Client, through which Ray Data does not run: start this on a machine of"
            " the cluster, with HOST:PORT of its head, such as head:6379"
        )
    try:
        parts = urlsplit(f"//{address}")
        place = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        place = None, None
    if "//" in address or not place[0] or not place[1]:
        raise ValueError(f"RAY_ADDRESS={address} is no address of a cluster: expected HOST:PORT, such as head:6379")
    return place[0], place[1]


def _nobody(address: str, reason: object) -> str:
    start = "start one with ray start --head, name another, or unset RAY_ADDRESS to use this machine alone"
    return f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}): {start}"


class RayEngine:
    """Encodes the shards it was made with on the cluster that the environment names. ModuleNotFoundError without it."""

    def __init__(self, shards: Sequence[Sequence[Segment]]) -> None:
        self._shards = shards
        self._ray = _start()

    def prepare(self, job: Job) -> Job:
        """Settle on a worker what takes the model: it has the devices that encode."""
        settled, problem = self._ray.get(
            self._ray.remote(**self._resources(job))(_prepare).remote(job, [list(shard) for shard in self._shards])
        )
        if problem is not None:
            raise ValueError(problem)
        prepared: Job = settled
        return prepared

    def encode(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The shards as they are finished, in any order; ValueError for a row that the job does not allow."""
        from ray.data import ActorPoolStrategy, from_items

        segments = {number: [dataclasses.asdict(one) for one in self._shards[number]] for number in numbers}
        items = [{"shard": number, "segments": json.dumps(given)} for number, given in segments.items()]
        workers = max(1, min(self._devices(job), len(numbers)))
        encoded = from_items(items, override_num_blocks=len(items)).map_batches(
            _Worker,
            fn_constructor_args=(job,),
            batch_size=1,  # a shard is the batch: large enough for a device, small enough for the object store
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            **self._resources(job),
        )
        for batch in encoded.iter_batches(batch_size=1, prefetch_batches=1, batch_format="numpy"):
            for number, content, problem in zip(batch["shard"], batch["content"], batch["problem"], strict=True):
                if problem:
                    raise ValueError(str(problem))
                yield int(number), bytes(content)

    def _devices(self, job: Job) -> int:
        needed = self._resources(job)
        there = self._ray.cluster_resources()
        return int(there["GPU"] if "num_gpus" in needed else there.get("CPU", 1) // needed["num_cpus"])

    def _resources(self, job: Job) -> dict[str, Any]:
        """Of one worker: a GPU, else as many processors as the local engine takes, if a machine has them."""
        if self._ray.cluster_resources().get("GPU", 0) >= 1 and not (job.device or "").startswith("cpu"):
            return {"num_gpus": 1}
        largest = max(node["Resources"].get("CPU", 1) for node in self._ray.nodes() if node["Alive"])
        return {"num_cpus": min(job.threads, int(largest))}


class _Worker:
    """An actor: a model and a reader that stay while shards come."""

    def __init__(self, job: Job) -> None:
        self._job = job
        _use_threads(job)
        self._encoder = load_encoder(job)
        self._reader = open_reader(job, self._encoder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        content, problems = [], []
        for number, segments in zip(batch["shard"], batch["segments"], strict=True):
            try:
                rows = self._reader.read([Segment(**segment) for segment in json.loads(segments)])
                [(_, encoded)] = encode_shards(self._encoder, [(int(number), rows)], self._job)
            except ValueError as error:  # of the data: to be told, not to be tried again
                encoded, problem = b"", str(error)
            else:
                problem = ""
            content.append(encoded)
            problems.append(problem)
        return {"shard": list(batch["shard"]), "content": content, "problem": problems}


def _prepare(job: Job, shards: list[list[Segment]]) -> tuple[Job, str | None]:
    _use_threads(job)
    try:
        return prepare(job, load_encoder(job), shards), None
    except ValueError as error:
        return job, str(error)


def _use_threads(job: Job) -> None:
    """As many as the local engine takes: sums in another order have other last bits."""
    import torch

    torch.set_num_threads(job.threads)


def _start() -> Any:
    address = os.environ.get("RAY_ADDRESS")
    for name, value in (_SETTINGS | (_OF_A_NAMED_CLUSTER if address else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(_INSTALL) from None
    if not ray.is_initialized():
        try:
            ray.init(
                address=None if address else "local",  # else Ray joins any that runs on this machine
                log_to_driver=False,
                logging_level=logging.WARNING,
                include_dashboard=False,
                configure_logging=False,
            )
        except (ConnectionError, TimeoutError) as error:  # something listens there, and it is no cluster
            raise ConnectionError(_nobody(address or "local", " ".join(str(error).split())[:200])) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray
