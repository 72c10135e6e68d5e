"""`usage` against vLLM's own counters: whatever ends a run, not a token is lost or counted twice."""

import time
from dataclasses import dataclass
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.servers import Server, Spent

QUESTION: list[Any] = [{"role": "user", "content": "List the planets and what they are made of."}]


@dataclass(frozen=True)
class Case:
    """A way to spend tokens, and how it ends. Answers run on to a limit, unless there is a `stop`."""

    strategy: dict[str, Any]
    max_tokens: int = 12
    stop_reason: str = "finished"
    stop: str | None = None

    @property
    def finish_reason(self) -> str:
        return "length" if self.stop is None else "stop"


def with_budget(name: str, max_tokens: int, **params: object) -> Case:
    return Case({"name": name, "params": params, "budget": {"max_tokens": max_tokens}}, 20, "budget")


def with_deadline(name: str, max_seconds: float) -> Case:
    return Case({"name": name, "budget": {"max_seconds": max_seconds}}, 1000, "deadline")


CASES = {
    "direct": Case({"name": "direct"}),
    "direct, own end": Case({"name": "direct"}, max_tokens=200, stop="e"),
    "self_refine": Case({"name": "self_refine", "params": {"critique_tokens": 16, "stop": "never"}}),
    "self_refine, last": Case({"name": "self_refine", "params": {"critique_tokens": 16, "keep": "last"}}),
    "self_consistency": Case({"name": "self_consistency", "params": {"samples": 4, "early_stop": False}}),
    "best_of_n": Case({"name": "best_of_n", "params": {"samples": 4}}),
    "budget, direct": with_budget("direct", 7),
    "budget, samples": with_budget("best_of_n", 30, samples=4),
    "budget, fewer samples": with_budget("self_consistency", 3, samples=5),
    "budget, rounds": with_budget("self_refine", 30),
    "deadline, direct": with_deadline("direct", 0.7),
    "deadline, samples": with_deadline("best_of_n", 0.7),
    "deadline, rounds": with_deadline("self_refine", 0.7),
}


def ask(server: Server, case: Case) -> ChatCompletion:
    return server.client.chat.completions.create(
        model=server.model,
        messages=QUESTION,
        max_tokens=case.max_tokens,
        temperature=0.8,
        seed=11,
        stop=case.stop,
        extra_body={"strategy": case.strategy, "ignore_eos": True},
    )


def report(answer: Any) -> dict[str, Any]:
    """The response's `strategy` object."""
    found: dict[str, Any] = answer.strategy
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_usage_is_what_the_engine_counted(server: Server, case: Case) -> None:
    before = server.settled()
    answer = ask(server, case)
    spent = Spent.between(before, server.settled())

    strategy, usage = report(answer), answer.usage
    assert usage is not None
    assert usage.completion_tokens == spent.completion
    assert strategy["engine"]["prompt_tokens"] == spent.prompt
    assert strategy["engine"]["completion_tokens"] == spent.completion
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    if strategy["engine"]["requests"] == strategy["engine_calls"]:
        assert usage.prompt_tokens == spent.prompt
    else:
        # One call with several samples: the shared prompt counts once.
        assert strategy["engine_calls"] == 1
        assert usage.prompt_tokens * strategy["engine"]["requests"] == spent.prompt
    assert strategy["stop_reason"] == case.stop_reason
    assert answer.choices[0].finish_reason == case.finish_reason


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("budget")])
def test_a_token_budget_is_never_overdrawn(server: Server, name: str) -> None:
    case = CASES[name]
    answer = ask(server, case)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= case.strategy["budget"]["max_tokens"]
    assert report(answer)["budget"]["max_tokens"] == case.strategy["budget"]["max_tokens"]
    assert answer.choices[0].message.content


def test_a_budget_that_ends_with_the_draft_gives_the_draft(server: Server) -> None:
    answer = ask(server, Case({"name": "self_refine", "budget": {"max_tokens": 12}}))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].message.content == ask(server, CASES["direct"]).choices[0].message.content
    assert report(answer)["stop_reason"] == "budget"


@pytest.mark.parametrize("name", ["direct", "best_of_n", "self_refine"])
def test_a_deadline_is_kept(server: Server, name: str) -> None:
    began = time.monotonic()
    answer = ask(server, with_deadline(name, 1))
    assert 0.9 < time.monotonic() - began < 4
    assert answer.choices[0].message.content
    assert report(answer)["stop_reason"] == "deadline"


def test_a_run_that_ends_in_its_prefill_counts_what_the_engine_counts(server: Server) -> None:
    talk: list[Any] = [{"role": "user", "content": " ".join(f"item{number}" for number in range(700))}]
    before = server.settled()
    answer = server.client.chat.completions.create(
        model=server.model,
        messages=talk,
        extra_body={"strategy": {"name": "best_of_n", "budget": {"max_seconds": 0.3}}},
    )
    spent = Spent.between(before, server.settled())
    assert answer.usage is not None
    assert answer.usage.completion_tokens == spent.completion == 0
    assert answer.usage.prompt_tokens == spent.prompt == 0
    assert report(answer)["stop_reason"] == "deadline"
    assert answer.choices[0].finish_reason == "length"


def test_early_stopped_samples_are_counted(server: Server) -> None:
    before = server.settled()
    answer = server.client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Write one word, or several."}],
        max_tokens=50,
        seed=2,
        extra_body={
            "strategy": {"name": "self_consistency", "params": {"samples": 8, "answer": "choice"}},
            # All vote for A, the short ones first: the vote is decided while the long ones still run.
            "structured_outputs": {"regex": "[a-z ]{1,100}[.] A"},
        },
    )
    spent = Spent.between(before, server.settled())
    assert answer.usage is not None
    assert answer.usage.completion_tokens == spent.completion
    assert report(answer)["engine"]["prompt_tokens"] == spent.prompt
    assert report(answer)["stop_reason"] == "vote_decided"
    assert (answer.choices[0].message.content or "").endswith(". A")


def test_hidden_tokens_are_reasoning_tokens(server: Server) -> None:
    answer = ask(server, CASES["best_of_n"])
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == usage.completion_tokens * 3 // 4


def test_cached_tokens_are_told(server: Server) -> None:
    ask(server, CASES["direct"])
    usage = ask(server, CASES["best_of_n"]).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) >= 32


def test_streamed_usage_is_what_the_engine_counted(server: Server) -> None:
    before = server.settled()
    stream = server.client.chat.completions.create(
        model=server.alias("best_of_n"),
        messages=QUESTION,
        max_tokens=12,
        seed=11,
        temperature=0.8,
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = stream
    spent = Spent.between(before, server.settled())
    assert last.usage is not None
    assert last.usage.completion_tokens == spent.completion


def test_metrics_of_strategies_move_with_the_runs(server: Server) -> None:
    before = server.settled()
    answer = ask(server, CASES["self_refine"])
    after = server.settled()

    def moved(name: str) -> float:
        return after.total(f"redraft_strategy_{name}", strategy="self_refine") - before.total(
            f"redraft_strategy_{name}", strategy="self_refine"
        )

    assert answer.usage is not None
    assert moved("requests_total") == 1
    assert moved("engine_calls_total") == report(answer)["engine_calls"]
    assert moved("prompt_tokens_total") == answer.usage.prompt_tokens
    assert moved("completion_tokens_total") == answer.usage.completion_tokens
    assert moved("duration_seconds_count") == 1
    assert moved("first_thought_seconds_count") == 1
    assert moved("first_answer_seconds_count") == 1
    assert after.total("redraft_strategy_running") == 0
