"""Which of the client's sampling parameters reach which call: the one table, read by the code and by the docs."""

import hashlib
from dataclasses import fields, replace
from typing import Any, Literal, get_args

from strategies.engine import Sampling

Role = Literal["draft", "critique", "revision", "sample", "attempt", "pair", "final"]
"""draft: a first answer; critique: text about an answer; revision: an improved answer; sample: one of several answers
side by side; attempt: a part of an answer that goes on in further calls; pair: a question with its answer, to learn
from; final: a call that makes nothing but the answer."""

Rule = Literal["inherited", "derived", "dropped"]
"""inherited: as the client asked; derived: set by the strategy; dropped: the engine's default."""

ROLES: tuple[Role, ...] = get_args(Role)

_IN_CRITIQUES: dict[str, Rule] = {
    "max_tokens": "derived",
    "min_tokens": "dropped",
    "stop": "dropped",
    "stop_token_ids": "dropped",
    "include_stop_str_in_output": "dropped",
    "ignore_eos": "dropped",
    "logit_bias": "dropped",
    "allowed_token_ids": "dropped",
    "logprobs": "derived",
    "grammar": "dropped",
}
"""A critique is not the answer: what shapes the answer stays out of it."""

_IN_PAIRS: dict[str, Rule] = dict.fromkeys(("max_tokens", "temperature", "logprobs", "grammar"), "derived")
"""A pair is the strategy's own: others may find the adapter that is fitted to it, so the client shapes none of it."""

_IN_ATTEMPTS: dict[str, Rule] = {"max_tokens": "derived", "min_tokens": "derived", "logprobs": "derived"}
"""The client bounds the whole, not each part of it."""


def rule(parameter: str, role: Role) -> Rule:
    """What a call of this role does with one of the client's sampling parameters."""
    if parameter == "seed":
        return "inherited" if role == "final" else "derived"
    if role == "critique":
        return _IN_CRITIQUES.get(parameter, "inherited")
    if role == "pair":
        return _IN_PAIRS.get(parameter, "dropped")
    if role == "attempt":
        return _IN_ATTEMPTS.get(parameter, "inherited")
    if parameter == "logprobs":
        return "inherited" if role == "final" else "derived"
    return "inherited"


def derive_seed(seed: int | None, round: int, branch: int) -> int | None:
    """The seed of branch i in round r: a 63-bit hash of (seed, r, i). The first call keeps the client's seed, so that
    its text is the plain answer to the same request.
    """
    if seed is None or (round == 0 and branch == 0):
        return seed
    digest = hashlib.blake2b(f"{seed}/{round}/{branch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sampling_for(client: Sampling, role: Role, *, round: int = 0, branch: int = 0, **derived: Any) -> Sampling:
    """The sampling of one call: the client's, as the table has it for this role.

    Args:
        client: what the client asked for.
        role: what the call is for.
        round: counts the rounds of one request from 0.
        branch: counts the branches of one round from 0.
        derived: values for parameters that the table calls derived in this role; TypeError for any other.
    """
    if wrong := [name for name in derived if rule(name, role) != "derived"]:
        raise TypeError(f"{', '.join(wrong)}: not derived in a {role} call")
    changes = {f.name: _default(f.name) for f in fields(Sampling) if rule(f.name, role) == "dropped"}
    if rule("seed", role) == "derived":
        changes["seed"] = derive_seed(client.seed, round, branch)
    return replace(client, **changes, **derived)


def table() -> str:
    """The table in Markdown, as docs/sampling.md has it."""
    names = [f.name for f in fields(Sampling)]
    lines = ["| parameter | " + " | ".join(ROLES) + " |", "|---" * (len(ROLES) + 1) + "|"]
    lines += [f"| `{name}` | " + " | ".join(rule(name, role) for role in ROLES) + " |" for name in names]
    return "\n".join(lines)


def _default(parameter: str) -> Any:
    return getattr(Sampling(max_tokens=1), parameter)
