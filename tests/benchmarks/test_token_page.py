"""The page docs/token-mixers.md is what the costs and the kept results say."""

from __future__ import annotations

from pathlib import Path

from benchmarks.model.token_page import EQUATIONS, page
from mixer_model.config import TOKEN_MIXERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "token-mixers.md"


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text() == page(), "run: python -m benchmarks.model.token_page > docs/token-mixers.md"


def test_every_mixer_is_on_it() -> None:
    assert tuple(EQUATIONS) == TOKEN_MIXERS
    text = page()
    for mixer in TOKEN_MIXERS:
        assert text.count(f"| `{mixer}` |") >= 2, mixer  # equation and cost, and what was measured
