"""A trained quick start against its base on docstrings of packages that no choice in the recipe was based on.

python benchmarks/unseen_packages.py runs/quickstart/model
"""

from __future__ import annotations

import argparse

import numpy as np

from mrl_text import MatryoshkaEncoder
from mrl_text.docstrings import HELD_OUT_PACKAGES, Docstring, load_docstrings
from mrl_text.dtypes import fastest_dtype
from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.library_logging import quiet_libraries
from mrl_text.training.recipe_files import load_recipe
from mrl_text.truncation import truncate

PACKAGES = """PIL _pytest accelerate anyio click dill fontTools fsspec httpx2 huggingface_hub jinja2 joblib mpmath
multiprocess narwhals omegaconf packaging pip pluggy psutil pyarrow pydantic pygments requests rich setuptools
tokenizers tqdm typer urllib3 virtualenv yaml""".split()


def main() -> None:
    """Encode with both models and print the scores at every size with paired intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--base", default="sentence-transformers/all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    quiet_libraries()
    data = load_recipe("quickstart").data
    known = [name for source in (*data.train, *data.validation) for name in source.packages or ()]
    seen = {text for pair in load_docstrings([*known, *HELD_OUT_PACKAGES]) for text in _texts(pair)}
    pairs = [pair for pair in load_docstrings(PACKAGES) if seen.isdisjoint(_texts(pair))]
    trained, base = (_scores(name, pairs) for name in (arguments.model, arguments.base))
    full = max(base)
    print(f"nDCG@10 (x100) on {len(pairs):,} docstrings of {len({pair.package for pair in pairs})} further packages")
    for dim, other in [*((dim, dim) for dim in sorted(base, reverse=True)), (128, full)]:
        gain = bootstrap_mean(trained[dim] - base[other])
        print(
            f"trained at {dim:3d} {trained[dim].mean():6.2f}   base at {other:3d} {base[other].mean():6.2f}"
            f"   {gain.mean:+6.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        )


def _texts(pair: Docstring) -> set[str]:
    return {pair.anchor.casefold(), pair.positive.casefold()}


def _scores(name: str, pairs: list[Docstring]) -> dict[int, np.ndarray]:
    """Size -> nDCG@10 (x100) of every query; one relevant document each, ties against the model."""
    model = MatryoshkaEncoder(name, model_kwargs={"dtype": fastest_dtype()})
    model.warn_when_cut = False
    queries = model.encode_query([pair.anchor for pair in pairs], batch_size=64, show_progress_bar=True)
    documents = model.encode_document([pair.positive for pair in pairs], batch_size=64, show_progress_bar=True)
    scores = {}
    for dim in (16, 32, 64, 128, 256, 384):
        similarities = truncate(queries, dim) @ truncate(documents, dim).T
        ranks = (similarities >= similarities.diagonal()[:, None]).sum(axis=1)
        scores[dim] = 100 * np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0.0)
    return scores


if __name__ == "__main__":
    main()
