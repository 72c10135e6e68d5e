"""Strategies that installed distributions announce."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies.best_of_n import BestOfN
from strategies.direct import Direct
from strategies.registry import GROUP, load_strategies
from strategies.self_consistency import SelfConsistency
from strategies.self_refine import SelfRefine

PLUGIN = """
from strategies import Decoder, Strategy

class Echo(Strategy):
    name = "echo"
    summary = "Says it again."

    async def run(self, task, engine):
        yield

class OtherEcho(Echo):
    pass

class Marked(Echo):
    name = "a@b"

class Booster(Decoder):
    name = "booster"
    summary = "Acts inside the engine."

    def apply(self, sampling):
        return sampling

direct = Echo()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Install]":
    """Puts a module `plugin_of_test` on the path, and distributions that announce parts of it."""
    (tmp_path / "plugin_of_test.py").write_text(PLUGIN)
    (tmp_path / "plugin_that_breaks.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield Install(tmp_path)
    sys.modules.pop("plugin_of_test", None)


class Install:
    """Installs a distribution for one test."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, distribution: str, **strategies: str) -> None:
        self.announce(distribution, strategies)

    def announce(self, distribution: str, strategies: dict[str, str]) -> None:
        """As __call__, for names that are no identifiers."""
        folder = self._path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        points = "".join(f"{name} = {value}\n" for name, value in strategies.items())
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")


def test_our_own_strategies_are_announced() -> None:
    found = load_strategies()
    ours = {"best_of_n": BestOfN, "direct": Direct, "self_consistency": SelfConsistency, "self_refine": SelfRefine}
    assert ours.items() <= found.items()
    assert list(found) == sorted(found)


def test_every_strategy_says_what_it_is() -> None:
    for name, plugin in load_strategies().items():
        assert plugin.name == name
        assert plugin.summary.endswith(".") and "\n" not in plugin.summary
        assert "tokens" in plugin.needs or name in ("direct", "self_consistency", "best_of_n", "self_refine")
        plugin.Parameters()  # All of them have defaults: an alias sets none.
        assert all(field.description for field in plugin.Parameters.model_fields.values())


def test_third_parties_add_strategies_and_decoders(install: Install) -> None:
    install("extras", echo="plugin_of_test:Echo", booster="plugin_of_test:Booster")
    found = load_strategies()
    assert (found["echo"].summary, found["booster"].summary) == ("Says it again.", "Acts inside the engine.")
    assert "direct" in found


def test_the_same_strategy_twice_is_one(install: Install) -> None:
    install("extras", echo="plugin_of_test:Echo")
    install("copies", echo="plugin_of_test:Echo")
    assert "echo" in load_strategies()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broken", "plugin_that_breaks:Echo", "does not import: No module named 'no_such_module_anywhere'"),
        ("missing", "plugin_of_test:Nothing", "does not import"),
        ("text", "plugin_of_test:PLUGIN_NAME", "does not import"),
        ("base", "strategies.base:Params", "is no Strategy and no Decoder"),
        ("instance", "plugin_of_test:direct", "is no Strategy and no Decoder"),
        ("alias", "plugin_of_test:Echo", "calls itself 'echo'"),
        ("a@b", "plugin_of_test:Marked", "cannot stand in a name"),
        ("direct", "plugin_of_test:direct", "'direct' .* is no Strategy"),
    ],
)
def test_a_plugin_that_is_none_is_an_error(install: Install, name: str, value: str, message: str) -> None:
    install.announce("extras", {name: value})
    with pytest.raises(RuntimeError, match=message) as raised:
        load_strategies()
    assert name in str(raised.value)


def test_a_name_that_is_taken_is_an_error(install: Install) -> None:
    install("extras", echo="plugin_of_test:Echo")
    install("others", echo="plugin_of_test:OtherEcho")
    with pytest.raises(RuntimeError, match="'echo' is announced twice"):
        load_strategies()
