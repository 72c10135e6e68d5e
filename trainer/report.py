"""The report of a training: what checkpoints make of held-out problems, side by side, in Markdown with plots."""

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.report import PLOT_DPI, facts_table, table, write
from benchmarks.stats import mcnemar
from trainer.artefacts import Artefact, ArtefactError
from trainer.evaluate import OUTCOMES
from trainer.measures import Measure, Outcomes

OF_MODEL = ("model", "revision", "weights", "chat_template")
"""Settings of an evaluation that say what is evaluated, rather than how."""


def write_report(
    folder: Path,
    name: str,
    evaluations: Mapping[str, Artefact],
    trained: Mapping[str, int] | None = None,
    always: Artefact | None = None,
) -> Path:
    """Writes NAME.md and NAME.png; returns the first.

    Args:
        folder: where to.
        name: of the files.
        evaluations: by label. The last is compared with all others.
        trained: tokens that each was trained on, behind what all begin with; what is not known is left out.
        always: of the last, with another attempt at every problem, whatever it chose.

    Raises:
        ArtefactError: they are of different problems, or were asked in different ways; or are of no samples, or not
            complete, or were changed.
    """
    settings = _common(evaluations)
    outcomes = joined({label: found.log(OUTCOMES).read() for label, found in evaluations.items()})
    *_, newest = outcomes
    if none := [label for label, one in outcomes.items() if not one.samples]:
        raise ArtefactError(f"{none[0]} was evaluated without samples, of which a report makes votes")
    _plot(outcomes, folder / f"{name}.png")
    path = folder / f"{name}.md"
    problems = len(outcomes[newest].lines)
    budget = min(found.samples * found.tokens() for found in outcomes.values())
    write(
        path,
        [
            f"# {name}: {problems} held-out problems",
            facts_table(_made_by(next(iter(evaluations.values()))) | settings),
            table(["checkpoint", "fitted with"], [[label, _fitted(found)] for label, found in evaluations.items()]),
            "## One answer",
            f"{ONE_ANSWER} {TRAINED}" if trained else ONE_ANSWER,
            table(
                ["checkpoint", *(["trained on"] if trained else []), "first answer", "after refining", "thought again"],
                [[label, *_trained(trained, label), *_one(found)] for label, found in outcomes.items()],
            ),
            FLIPS,
            table(
                ["checkpoint", "wrong → right", "right → wrong", "p", "CL", "CS"],
                [[label, *_flips(found)] for label, found in outcomes.items()],
            ),
            "## Verification",
            VERIFICATION,
            table(
                ["checkpoint", "AUROC of the confidence", "sampled first answers", "cut", "empty"],
                [
                    [label, str(found.auroc()), str(found.sampled_first()), str(found.cut()), str(found.empty())]
                    for label, found in outcomes.items()
                ],
            ),
            VERDICTS,
            table(
                ["checkpoint", "thinks again, of wrong ones", "of right ones"],
                [[label, *map(str, found.verdicts())] for label, found in outcomes.items()],
            ),
            *([] if always is None else _thought_over(outcomes[newest], always)),
            "## Votes at equal tokens",
            f"{EQUAL} {budget:.0f}.",
            table(
                ["checkpoint", "samples", "majority", "by confidence"],
                _at_equal_tokens(outcomes, budget),
            ),
            "## Votes",
            VOTES,
            table(
                ["checkpoint", "samples", "tokens", "majority", "by confidence"],
                [row for label, found in outcomes.items() for row in _votes(label, found)],
            ),
            f"![Accuracy against tokens, and confidences]({name}.png)",
            f"## {newest} against the others",
            AGAINST,
            table(
                [f"{newest} over", "first answer", "p", "after refining", "p", "votes by confidence at equal tokens"],
                [
                    [label, *_against(outcomes[newest], found, budget)]
                    for label, found in outcomes.items()
                    if label != newest
                ],
            ),
        ],
    )
    return path


def _made_by(evaluation: Artefact) -> dict[str, Any]:
    """Where and when a report is written, and what of."""
    asked_of = evaluation.parent("problems")
    known = {} if asked_of is None else {key: asked_of.settings.get(key) for key in ("task", "seed")}
    return {
        "date": datetime.date.today().isoformat(),
        "command": f"`{shlex.join(['redraft', *map(machine.shown, sys.argv[1:])])}`",
        **{key if key == "task" else f"{key} of the problems": value for key, value in known.items()},
        **machine.describe(),
    }


def _fitted(evaluation: Artefact) -> str:
    """How a checkpoint was made, as far as it is there to be read."""
    if (fit := evaluation.parent("model")) is None:
        return str(evaluation.settings.get("model", "unknown"))
    settings = fit.settings["fit"]
    shown = ", ".join(f"{key} {settings[key]:g}" for key in ("learning_rate", "epochs", "batch", "seed"))
    lost = ", what it learnt from is partly lost" if evaluation.facts.get("lost") else ""
    return f"{fit.facts['rows']:,} rows, {fit.facts['tokens']:,} tokens, {shown}{lost}"


def _thought_over(found: Outcomes, always: Artefact) -> list[str]:
    """What the choice to think again is worth, beside other rules for it."""
    all_of = joined({"it": found.lines, "always": always.log(OUTCOMES).read()})["always"]
    rows = []
    for threshold in THRESHOLDS:
        last = all_of.last_at(threshold)
        shares = [str(Measure.share(values)) for values in (last, all_of.again_at(threshold))]
        rows.append([_rule(threshold), *shares, _p(found.last(), last)])
    own = ["as it chooses", str(Measure.share(found.last())), str(Measure.share(found.refined())), ""]
    heads = ["thinks again", "after refining", "share thought over", "p, its choice against that"]
    return [THOUGHT_OVER, table(heads, [own, *rows])]


def _rule(threshold: float) -> str:
    return {0.0: "never", 1.0: "always"}.get(threshold, f"where P(end) < {threshold:g}")


def joined(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Outcomes]:
    """Outcomes by label, all of the same problems in the same order. Raises ArtefactError if they are of others."""
    first = next(iter(lines.values()))
    order = [line["problem"] for line in first]
    found = {}
    for label, of_label in lines.items():
        by_problem = {line["problem"]: line for line in of_label}
        if by_problem.keys() != set(order):
            raise ArtefactError(f"{label} was evaluated on other problems than {next(iter(lines))}")
        found[label] = Outcomes([by_problem[problem] for problem in order])
    return found


def _common(evaluations: Mapping[str, Artefact]) -> dict[str, Any]:
    """How all were asked. Raises ArtefactError if that, or what they were asked, differs: problems of different tasks
    have the same ids.
    """
    for label, found in evaluations.items():
        if not found.complete:
            raise ArtefactError(f"the evaluation of {label}, {found.folder}, is not complete")
        found.check()
    (first, wanted), *others = [
        (label, {"problems": found.manifest["parents"].get("problems")} | _asked(found))
        for label, found in evaluations.items()
    ]
    for label, made in others:
        keys = [key for key in {**wanted, **made} if wanted.get(key) != made.get(key)]
        if keys:
            differs = "; ".join(f"{key} is {made.get(key)!r}, not {wanted.get(key)!r}" for key in keys)
            raise ArtefactError(f"{label} was evaluated otherwise than {first}: {differs}")
    return _asked(next(iter(evaluations.values())))


def _asked(evaluation: Artefact) -> dict[str, Any]:
    return {key: value for key, value in evaluation.settings.items() if key not in OF_MODEL}


def _trained(trained: Mapping[str, int] | None, label: str) -> list[str]:
    return [f"{trained[label]:,}" if label in trained else "unknown"] if trained else []


def sizes(samples: int) -> list[int]:
    """Numbers of samples that votes are made of."""
    return [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= samples]


def _one(found: Outcomes) -> list[str]:
    return [str(Measure.share(values)) for values in (found.first(), found.last(), found.refined())]


def _flips(found: Outcomes) -> list[str]:
    first, last = np.array(found.first()), np.array(found.last())
    gained, lost = int((~first & last).sum()), int((first & ~last).sum())
    return [str(gained), str(lost), f"{mcnemar(gained, lost):.2g}", str(found.kept()), str(found.corrected())]


def _at_equal_tokens(outcomes: Mapping[str, Outcomes], budget: float) -> list[list[str]]:
    rows = []
    for label, found in outcomes.items():
        samples = budget / found.tokens()
        votes = [found.votes_at(samples, weighted) for weighted in (False, True)]
        shown = ["too few" if one is None else str(Measure.mean(one)) for one in votes]
        rows.append([label, f"{samples:.2f}", *shown])
    return rows


def _paired(one: Any, other: Any) -> str:
    return str(Measure.mean(np.array(one, dtype=float) - np.array(other, dtype=float)))


def _p(one: Sequence[bool], other: Sequence[bool]) -> str:
    now, was = np.array(one), np.array(other)
    return f"{mcnemar(int((now & ~was).sum()), int((~now & was).sum())):.2g}"


def _votes(label: str, found: Outcomes) -> list[list[str]]:
    return [
        [
            label,
            str(size),
            f"{size * found.tokens():.0f}",
            str(Measure.mean(found.votes(size, weighted=False))),
            str(Measure.mean(found.votes(size, weighted=True))),
        ]
        for size in sizes(found.samples)
    ]


def _against(found: Outcomes, other: Outcomes, budget: float) -> list[str]:
    votes = [one.votes_at(budget / one.tokens(), weighted=True) for one in (found, other)]
    return [
        _paired(found.first(), other.first()),
        _p(found.first(), other.first()),
        _paired(found.last(), other.last()),
        _p(found.last(), other.last()),
        "too few" if any(one is None for one in votes) else _paired(*votes),
    ]


def _plot(outcomes: Mapping[str, Outcomes], path: Path) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    votes, confidence = figure.subplots(1, 2)
    for i, (label, found) in enumerate(outcomes.items()):
        _plot_votes(votes, label, found, f"C{i}")
        _plot_confidence(confidence, label, found, f"C{i}")
    votes.set(xscale="log", xlabel="completion tokens a problem", ylabel="share right")
    votes.grid(alpha=0.3)
    votes.legend(fontsize=8)
    confidence.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    confidence.set(xlabel="wrong first answers held for as sure", ylabel="right ones", title="ROC of the confidence")
    confidence.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def _plot_votes(axes: Axes, label: str, found: Outcomes, colour: str) -> None:
    at = sizes(found.samples)
    tokens = [size * found.tokens() for size in at]
    for weighted, style in ((False, "--"), (True, "-")):
        shares = [Measure.mean(found.votes(size, weighted)) for size in at]
        way = "by confidence" if weighted else "majority"
        axes.plot(tokens, [one.value for one in shares], style, color=colour, marker="o", label=f"{label}, {way}")
        axes.fill_between(tokens, [one.low for one in shares], [one.high for one in shares], color=colour, alpha=0.08)


def _plot_confidence(axes: Axes, label: str, found: Outcomes, colour: str) -> None:
    pairs = [(one["confidence"], one["right"]) for one in found.first_samples()]
    curve = roc([confidence for confidence, _ in pairs], [right for _, right in pairs])
    axes.plot(*zip(*curve, strict=True), color=colour, label=f"{label}: {found.auroc_value():.2f}")


def roc(confidences: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """Shares of wrong and of right answers above each confidence."""
    if not confidences:
        return [(0.0, 0.0)]
    order = np.argsort(-np.asarray(confidences), kind="stable")
    values, truth = np.asarray(confidences)[order], np.asarray(right, dtype=bool)[order]
    ends = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)
    wrong, rights = np.cumsum(~truth)[ends], np.cumsum(truth)[ends]
    return [(0.0, 0.0), *zip(wrong / max(wrong[-1], 1), rights / max(rights[-1], 1), strict=True)]


ONE_ANSWER = """Greedy: the first attempt, and what the client gets, which is another attempt where the checkpoint \
chose to refine. Intervals are 95%: of shares of problems Wilson's, of all else by resampling problems."""
TRAINED = "Tokens of training are those behind what all begin with."
FLIPS = """Of the same greedy answers: what refining changed. p is McNemar's exact test of the two flips; CL is the \
share of right first answers that stay right, CS that of wrong ones that become right."""
VERDICTS = """Of greedy first attempts that were verified: what the checkpoint chose."""
THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
THOUGHT_OVER = """Of the last checkpoint: all greedy attempts were thought over once more, and which of the two \
attempts counts is decided by a threshold (the parameter `threshold` of `revise`). Each p is McNemar's exact test."""
EQUAL = """As many samples for each checkpoint as so many tokens pay for, refining and scoring too; of a fraction, \
between the whole numbers beside it. Tokens for a problem:"""
AGAINST = """Differences problem by problem, with McNemar's exact tests. No p of this report is corrected for how many \
there are."""
VERIFICATION = """The confidence in an attempt is P(end) behind it. AUROC is how often a right sampled first attempt \
is held for surer than a wrong one; 0.5 is chance. Those that were cut at the most tokens, and empty ones, are left \
out; they count as sampled first answers."""
VOTES = """Of the last attempts of so many samples. Tokens are all that the engine generated for them, refining and \
scoring too."""
