"""Every published score that a mirror has the data for, beside ours, as a Markdown page.

    python benchmarks/reproduction.py --mirror DIR --published FILE.csv --output docs/reproduction.md

FILE.csv has the columns model, task, split, metric, main_score_x100, for one model at full width.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mteb
import pandas as pd
import sentence_transformers

from mrl_text.eval import sweep
from mrl_text.library_logging import quiet_libraries


def main() -> None:
    """Evaluate and write the page; exit code 1 if a score is further than the tolerance from the published one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=0.05, help="points")
    arguments = parser.parse_args()
    quiet_libraries()
    published = pd.read_csv(arguments.published)
    (model,) = published["model"].unique()
    with tempfile.TemporaryDirectory() as folder:
        tasks = published["task"].unique().tolist()
        measured = sweep(
            [model], tasks, output=folder, precisions=["float32"], controls=[], mirror=arguments.mirror
        ).scores
    full = measured[measured["dim"] == measured["dim"].max()]
    table = published.merge(full, on=["task", "split"], how="left", validate="one_to_one")
    if table["score"].isna().any():
        raise SystemExit(f"not measured: {', '.join(table[table['score'].isna()]['task'])}")
    difference = 100 * table["score"] - table["main_score_x100"]
    rows = [
        f"| {row.task} | {row.split} | {row.metric_x} | {row.main_score_x100:.2f} | {100 * row.score:.2f} |"
        f" {100 * row.ci_low:.2f} to {100 * row.ci_high:.2f} |"
        for row in table.itertuples()
    ]
    largest = difference.abs().max()
    text = f"""# Agreement with published scores

{model} at full width in float32: its scores in the MTEB results beside ours, x100, with the 95 % interval of ours.
The largest difference is {largest:.3f} points. mteb {mteb.__version__}, sentence-transformers
{sentence_transformers.__version__}. This page is written by

```
python benchmarks/reproduction.py --mirror DIR --published FILE.csv --output docs/reproduction.md
```

| task | split | metric | published | measured | interval |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    arguments.output.write_text(text, encoding="utf-8")
    print(text)
    if largest > arguments.tolerance:
        raise SystemExit(f"a score is {largest:.3f} points from the published one")


if __name__ == "__main__":
    main()
