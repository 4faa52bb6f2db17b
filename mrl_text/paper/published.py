"""The paper's own numbers for images: ResNet50 on ImageNet-1K, top-1 accuracy in percent.

Kusupati et al. 2022, "Matryoshka Representation Learning", arXiv 2205.13147. The numbers are the plot data that the
authors keep beside their code (github.com/RAIVNLab/MRL, folder ``Visualization``); the file is named with each table.
"""

from __future__ import annotations

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)

NEAREST_NEIGHBOUR: dict[str, dict[int, float]] = {
    "MRL": dict(zip(SIZES, (62.19, 67.91, 69.46, 70.17, 70.52, 70.62, 70.82, 70.89, 70.97), strict=True)),
    "independent": dict(zip(SIZES, (58.93, 66.77, 68.84, 69.41, 69.35, 69.72, 70.18, 70.34, 71.19), strict=True)),
    "SVD": dict(zip(SIZES, (19.14, 46.02, 60.78, 67.04, 69.63, 70.67, 71.06, 71.22, 71.21), strict=True)),
    "random": dict(zip(SIZES, (2.36, 12.06, 32.91, 49.91, 60.91, 65.75, 68.77, 70.41, 71.19), strict=True)),
}
"""1-nearest-neighbour accuracy (``Classification KNN performance PLot/PLOTS - Sheet14.csv``)."""

_LINEAR = (66.63, 73.53, 75.03, 75.82, 76.30, 76.47, 76.65, 76.76, 76.80)
LINEAR: dict[int, float] = dict(zip(SIZES, _LINEAR, strict=True))
"""Accuracy of MRL's linear classifier (``Classification Performance Plots/PLOTS - Sheet2.csv``)."""

UNTRAINED: dict[int, float] = {
    size + size // 2: accuracy
    for size, accuracy in zip(SIZES, (65.89, 68.76, 69.96, 70.40, 70.64, 70.69, 70.84, 70.88), strict=False)
}
"""1-nearest-neighbour accuracy of MRL at sizes it was not trained for (``Interpolation/PLOTS - Sheet12.csv``)."""

CASCADE: tuple[tuple[float, float], ...] = (
    (13.57, 73.79),
    (18.86, 75.23),
    (26.18, 76.06),
    (37.19, 76.29),
    (47.21, 76.44),
    (64.79, 76.53),
    (94.32, 76.56),
)
"""Expected size and accuracy of adaptive classification (``Cascades/plots.csv``)."""
