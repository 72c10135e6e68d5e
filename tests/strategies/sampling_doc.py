"""Writes docs/sampling.md: python -m tests.strategies.sampling_doc."""

from pathlib import Path

from strategies.sampling import table

DOC = Path(__file__).parents[2] / "docs" / "sampling.md"
COMMAND = "python -m tests.strategies.sampling_doc"

INTRO = f"""\
# Sampling parameters

A strategy answers one request with several calls of the model. This table says which of the client's sampling
parameters reach which call. The code reads the same table, in `strategies/sampling.py`; this command writes this page
from it:

    {COMMAND}

Roles of calls:

- draft: a first answer, which may become the final one
- critique: text about an answer
- revision: an improved answer
- sample: one of several answers side by side
- attempt: a part of an answer that goes on in further calls
- pair: a question with its answer, to learn from
- final: a call that makes nothing but the answer

Rules:

- inherited: as the client asked
- derived: set by the strategy. A seed is derived from the client's seed, the round and the branch; the first call of a
  request keeps the client's seed.
- dropped: the default of the engine
"""


def page() -> str:
    """All of docs/sampling.md."""
    return f"{INTRO}\n{table()}\n"


if __name__ == "__main__":
    DOC.parent.mkdir(exist_ok=True)
    DOC.write_text(page(), encoding="utf-8")
