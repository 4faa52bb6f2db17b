from __future__ import annotations

from pathlib import Path

import pytest

from mrl_text.figures import Panel, Series, draw_panels


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 4])
def test_panels_are_written_whole_in_any_number(tmp_path: Path, count: int) -> None:
    lines = [Series(f"s{n}", [(16, 1.0, 0.5, 1.5), (32, 2.0, None, None)], control=n > 5) for n in range(12)]
    file = draw_panels([Panel(f"p{n}", "y", lines) for n in range(count)], tmp_path / "f.png")
    assert file.read_bytes().startswith(b"\x89PNG")
