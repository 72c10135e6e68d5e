"""/v1/models and /v1/strategies."""

import openai
import pytest

from strategies.base import Decoder
from strategies.registry import load_strategies
from tests.servers import Server

NAMES = ["best_of_n", "direct", "iterative_deepening", "revise", "self_consistency", "self_refine", "srgen", "ttsi"]


def test_models_are_listed_plain_and_with_each_strategy(server: Server) -> None:
    cards = list(server.client.models.list())
    assert [card.id for card in cards] == [server.model, *(server.alias(name) for name in NAMES)]
    assert all(card.object == "model" for card in cards)
    assert [(card.model_extra or {}).get("parent") for card in cards] == [None, *[server.model] * len(NAMES)]


def test_each_listed_model_can_be_retrieved(server: Server) -> None:
    for card in server.client.models.list():
        assert server.client.models.retrieve(card.id).id == card.id


@pytest.mark.parametrize("name", ["nobody", "smollm2-135m@nobody", "smollm2-135m/x"])
def test_an_unlisted_model_is_not_found(server: Server, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        server.client.models.retrieve(name)
    assert error.value.param == "model"


def test_strategies_say_what_they_take(server: Server) -> None:
    with server.http as http:
        listing = http.get("/v1/strategies").raise_for_status().json()
    assert listing["object"] == "list"
    cards = {card["name"]: card for card in listing["data"]}
    assert list(cards) == NAMES
    for name, plugin in load_strategies().items():
        card = cards[name]
        assert card["object"] == "strategy"
        assert card["kind"] == ("decoder" if issubclass(plugin, Decoder) else "orchestrator")
        assert card["available"] is True
        assert card["summary"] == plugin.summary
        assert card["paper"] == plugin.paper
        assert card["needs"] == sorted(plugin.needs)
        assert card["parameters"] == plugin.Parameters.model_json_schema()
        assert card["parameters"]["additionalProperties"] is False
        for field in card["parameters"]["properties"].values():
            assert field["description"]
            assert "default" in field
