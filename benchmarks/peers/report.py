"""From the journal of the comparison to Markdown and a plot."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.journal import Journal
from benchmarks.peers.accuracy import by_hand
from benchmarks.peers.arms import ARMS, DIRECT, EMBEDDED, GATEWAYS, ITS_HUB, OPTILLM, REMOTE, SAMPLED, VLLM, Arm
from benchmarks.peers.plot import plot
from benchmarks.peers.requests import PARAMETERS
from benchmarks.peers.rows import TOKENS, Rows, Unmeasured
from benchmarks.report import facts_table, number, ratio, table, write
from benchmarks.stats import wilson

VOTING = {
    VLLM: SAMPLED,
    **{
        name: next(arm for arm in ARMS if arm.gateway == name and arm.kind == "vote")
        for name in (OPTILLM, ITS_HUB, REMOTE, EMBEDDED)
    },
}
"""Of each gateway, the arm that stands for it where it votes; OptiLLM's other one is in the details."""
PLAIN = {name: next(arm for arm in ARMS if arm.gateway == name and arm.kind == "plain") for name in GATEWAYS}
ERROR_CHARACTERS = 90

Shown = Callable[[Arm], str]


class PeersReport:
    """The report of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._settings = journal.settings
        self._rows = Rows(journal)

    def write(self, folder: Path) -> Path:
        """Writes peers.md and peers.png; returns the first."""
        folder.mkdir(parents=True, exist_ok=True)
        plot(self._rows, self._settings["samples"], folder / "peers.png")
        path = folder / "peers.md"
        sections = [self._head(), self._main(), "![Costs and accuracies](peers.png)"]
        write(path, [*sections, self._failed(), self._costs(), self._parameters(), self._accuracy(), self._setup()])
        return path

    def _head(self) -> str:
        facts = self._journal.facts
        shown = {"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"]}
        unfinished = "" if self._journal.complete else "**Unfinished: some measurements are missing.** "
        smoke = "**A smoke test (`--quick`), not a measurement.** " if self._settings["quick"] else ""
        return f"# Beside other gateways\n\n{smoke}{unfinished}{INTRODUCTION}\n\n{facts_table(shown)}"

    def _main(self) -> str:
        at_once = self._settings["at_once"]
        rows: list[tuple[str, dict[str, Arm], Shown]] = [
            ("one plain request, seconds over a direct one", PLAIN, self._seconds("plain")),
            ("self-consistency of 5, seconds over one direct request", VOTING, self._seconds("vote")),
            (f"{at_once} plain at once, over one", PLAIN, self._seconds("crowd")),
            (f"{at_once} self-consistencies of 5 at once, over one direct request", VOTING, self._seconds("crowd")),
            ("reported over true prompt tokens, self-consistency", VOTING, self._tokens("prompt")),
            ("reported over true completion tokens, self-consistency", VOTING, self._tokens("completion")),
            ("sampling parameters that reach the engine, plain", PLAIN, self._reached),
            ("sampling parameters that reach the engine, self-consistency", VOTING, self._reached),
            ("engine work after the client left, self-consistency", VOTING, self._left(False)),
            ("the same, of a stream", VOTING, self._left(True)),
            ("first byte of a stream over its total, plain", PLAIN, self._first),
            ("first byte of a stream over its total, self-consistency", VOTING, self._first),
            ("accuracy over a vote by hand at equal tokens", VOTING, self._equal),
        ]
        cells = [[what, *(self._cell(show, arms[name]) for name in GATEWAYS)] for what, arms, show in rows]
        return table(["", *GATEWAYS], cells) + "\n\n" + NOTE.format(**self._settings)

    def _cell(self, show: Shown, arm: Arm) -> str:
        try:
            return show(arm)
        except Unmeasured as reason:
            text = " ".join(str(reason).split())
            return text if len(text) <= ERROR_CHARACTERS else f"{text[:ERROR_CHARACTERS]}..."

    def _seconds(self, kind: str) -> Shown:
        return lambda arm: ratio(self._rows.over_one_call(kind, arm))

    def _tokens(self, what: str) -> Shown:
        return lambda arm: f"{self._rows.reported_over_true('vote', arm)[what]:.2f}"

    def _reached(self, arm: Arm) -> str:
        found = self._rows.parameters(arm)
        return f"{sum(found.values())} of {len(found)}"

    def _left(self, stream: bool) -> Shown:
        return lambda arm: f"{self._rows.after_leaving(arm, stream):.2f}"

    def _first(self, arm: Arm) -> str:
        return f"{self._rows.first_over_total(arm):.2f}"

    def _equal(self, arm: Arm) -> str:
        if arm is SAMPLED:
            return "0 (the vote by hand)"
        gap = self._rows.at_equal_tokens(arm)
        return f"{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"

    def _failed(self) -> str:
        failed = self._journal.facts["failed"]
        lines = [f"- {name} does not run: {' '.join(why.split())}" for name, why in failed.items()]
        return "\n".join(["## What does not run", *(lines or ["All gateways run."])])

    def _costs(self) -> str:
        shown: list[tuple[str, Shown]] = [
            ("seconds over one direct request", lambda arm: self._seconds(arm.kind)(arm)),
            ("at once, over one", self._seconds("crowd")),
            ("work after leaving", self._left(False)),
            ("of a stream", self._left(True)),
            ("first byte / total", self._first),
            ("first text / total", lambda arm: f"{self._rows.first_over_total(arm, 'first_text'):.2f}"),
        ]
        arms = [arm for arm in ARMS if arm.kind != "technique"]
        rows = [[arm.name, *(self._cell(show, arm) for _, show in shown)] for arm in arms]
        return f"## Costs, all arms\n\n{table(['', *(what for what, _ in shown)], rows)}"

    def _parameters(self) -> str:
        arms = [arm for arm in ARMS if arm.kind != "technique"]
        rows = []
        for arm in arms:
            try:
                found = self._rows.parameters(arm)
            except Unmeasured as reason:
                rows.append([arm.name, str(reason)[:ERROR_CHARACTERS], *[""] * (len(PARAMETERS) - 1)])
                continue
            rows.append([arm.name, *("yes" if found[name] else "no" for name in PARAMETERS)])
        return f"## Parameters that reach the engine\n\n{PARAMETERS_NOTE}\n\n{table(['', *PARAMETERS], rows)}"

    def _accuracy(self) -> str:
        hand = by_hand(self._settings["samples"])
        rows = []
        for arm in (hand, *(arm for arm in ARMS if arm.gateway != DIRECT.gateway)):
            try:
                found = self._rows.answers(arm)
                share = sum(found.right()) / len(found.judged)
                low, high = wilson(share, len(found.judged))
                told = self._rows.reported_over_true("answers", arm)
                row = [f"{share:.2f} [{low:.2f}, {high:.2f}]", number(found.completion), number(found.prompt)]
                row += [" / ".join(f"{told[what]:.2f}" for what in TOKENS), number(found.seconds)]
                rows.append([arm.name, *row, str(len(found.errors)), "" if arm == hand else self._equal(arm)])
            except Unmeasured as reason:
                rows.append([arm.name, str(reason)[:ERROR_CHARACTERS], *[""] * 6])
        header = ["arm", "accuracy", "tokens an item", "prompt tokens an item", "reported / true: prompt, completion"]
        header += ["median seconds", "failed", "over a vote by hand at equal tokens"]
        return f"## Accuracy\n\n{ACCURACY_NOTE.format(**self._settings)}\n\n{table(header, rows)}"

    def _setup(self) -> str:
        facts = self._journal.facts
        commands = "\n".join(f"{name}: {command}" for name, command in facts["commands"].items())
        differing = "\n".join(f"- {item}" for item in facts["differences"] or ["none"])
        return f"## Servers\n\n```\n{commands}\n```\n\n{SETUP_NOTE}\n\n{differing}"


INTRODUCTION = """OptiLLM and its_hub, each in a virtual environment of its own, and redraft as a gateway, all in \
front of one `vllm serve`; and redraft with an engine of its own, started with the same settings. The first column is \
`vllm serve` itself, with `n` of 5 for self-consistency: what there is to gain or lose is seen beside it."""
NOTE = """Seconds: {rounds} rounds ({crowd_rounds} of what runs at once), medians of the ratio to a direct request in \
the same round with 95% bootstrap intervals over rounds, arms shuffled within a round, answers cut at {tokens} tokens, \
every prompt new. OptiLLM stands in its `self_consistency`; its `majority_voting` is below. its_hub has no plain \
request: a budget of 1 is the nearest. True tokens are differences of vLLM's /metrics, which count a prompt once for \
each of its samples; vLLM's own usage counts it once, and so does redraft's. Work after leaving: tokens that the \
engine made after the client had left at {left_share} of the seconds that a whole request takes, over those of a \
whole one."""
PARAMETERS_NOTE = """Each is sent in a request of its own. It has reached the engine if every call that the engine got \
for the request has it as it was sent; of a seed it is enough that each call has one, for samples with one seed would \
be one sample."""
ACCURACY_NOTE = """`{task}`, {items} items, answers of up to {answer_tokens} tokens, {items_at_once} items at a time, \
one round. Tokens are those that the engine made and read, an item. A vote by hand is the majority among the first of \
{samples} samples of plain vLLM, at as many tokens as the arm took: between two numbers of samples, a mixture of both; \
its row has the accuracy of one sample, and the tokens of all. Accuracies have Wilson's interval, differences a paired \
bootstrap over items. A request that failed is a wrong answer. its_hub passes no parameter on: what all gateways are \
told, its server has as its default. Some techniques cannot be told to: OptiLLM's `self_consistency`, `bon` and `moa` \
sample at temperature 1. Nothing is corrected for the number of arms."""
SETUP_NOTE = """Both engines note the parameters of each call in a file, by a plugin of the benchmark. Differences \
between what they report of themselves (redraft / vllm serve):"""
