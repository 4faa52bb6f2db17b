"""Two processes with halves of a batch against one process with the whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import EmbeddingDistillation, InfoNCE, NestedLoss
from tests import processes
from tests.losses.reference import ragged, random_columns, without_dropout

DIMS = [8, 16, 32]
WORLD = 2
CASES: dict[str, dict[str, Any]] = {
    "pairs": {"columns": 2, "symmetric": False, "mini_batch_size": None},
    "negatives": {"columns": 4, "symmetric": False, "mini_batch_size": None},
    "symmetric": {"columns": 3, "symmetric": True, "mini_batch_size": None},
    "pairs, cached": {"columns": 2, "symmetric": False, "mini_batch_size": 7},
    "guided": {"columns": 3, "symmetric": True, "mini_batch_size": None, "margin": 0.1},
    "embeddings": {"columns": 2, "symmetric": False, "mini_batch_size": 7, "embeddings": True},
    "symmetric, cached": {"columns": 3, "symmetric": True, "mini_batch_size": 7},
}
Result = tuple[float, dict[str, Tensor]]

HAS_GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_GLOO, reason="torch has no gloo")]


def load(folder: str) -> MatryoshkaEncoder:
    model = MatryoshkaEncoder(folder, device="cpu").double().train()
    without_dropout(model)
    return model


def measure(folder: str, case: dict[str, Any], rank: int | None) -> Result:
    """Loss and gradients of the whole batch (rank None), or of one rank's half with the model in DDP."""
    model = load(folder)
    objective = InfoNCE(
        DIMS,
        weights=[1, 2, 3],
        symmetric=case["symmetric"],
        gather_across_devices=rank is not None,
        margin=case.get("margin"),
    )
    more = [EmbeddingDistillation(DIMS)] if case.get("embeddings") else []
    loss = NestedLoss(model, objective, *more, mini_batch_size=case["mini_batch_size"])
    features = [model.preprocess(column) for column in ragged(80, case["columns"], longest=20)]
    guide = torch.cat([column.detach() for column in random_columns(case["columns"], 80, 9)], dim=1)
    if rank is not None:
        loss.model = DistributedDataParallel(model, find_unused_parameters=True)  # the pooler is not used
        half = slice(rank * 40, rank * 40 + 40)
        guide = guide[half]
        features = [
            {key: value[half] if isinstance(value, Tensor) else value for key, value in column.items()}
            for column in features
        ]
    given = {"guide": guide, "teacher": guide}
    value = torch.stack(list(loss(features, given).values())).sum()
    value.backward()
    embeddings = [loss.model(dict(column))["sentence_embedding"] for column in features]
    total = loss.compute_loss_from_embeddings([one.detach() for one in embeddings], given)
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return total.item(), gradients


def draw(folder: str, rank: int) -> list[tuple[str, ...]]:
    torch.manual_seed(100 + rank)
    model = load(folder)
    loss = NestedLoss(model, InfoNCE(DIMS), InfoNCE([4, 12, 20]), dims_per_step=1)
    features = [model.preprocess(column) for column in ragged(4, 2, longest=5)]
    return [tuple(name for name, value in loss(features, None).items() if value != 0) for _ in range(12)]


def work(rank: int, folder: str, output: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{output}/store",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(minutes=2),  # a process that waits for another in vain says so soon
    )
    try:
        results: dict[str, Any] = {name: measure(folder, case, rank) for name, case in CASES.items()}
        results["sizes"] = draw(folder, rank)
        torch.save(results, f"{output}/{rank}.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tiny_bert: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> list[dict[str, Any]]:
    """What each of the two processes found, in all cases: they are started once."""

    def run(output: Path) -> None:
        # from the server of tests.processes, which has imported what they need
        start, arguments = torch.multiprocessing.start_processes, (str(tiny_bert), str(output))
        start(work, arguments, nprocs=WORLD, start_method=processes.context.get_start_method())

    output = once("ranks", run)
    return [torch.load(output / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_process(tiny_bert: Path, ranks: list[dict[str, Any]], name: str) -> None:
    expected_loss, expected = measure(str(tiny_bert), CASES[name], None)
    losses = [rank[name][0] for rank in ranks]
    assert losses[0] != losses[1]
    assert sum(losses) / WORLD == pytest.approx(expected_loss, rel=1e-10)
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in expected.values())
    for rank in ranks:
        found = rank[name][1]
        for weight, gradient in expected.items():
            largest = max(float(gradient.abs().max()), floor)
            assert (found[weight] - gradient).abs().max() < 1e-9 * largest, weight


def test_all_processes_draw_the_same_sizes_though_their_seeds_differ(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["sizes"] == ranks[1]["sizes"]
    assert len(set(ranks[0]["sizes"])) > 3
