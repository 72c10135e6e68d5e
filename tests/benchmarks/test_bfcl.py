"""BFCL's items as requests, and what its own checker makes of calls."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bfcl import PACKAGE, Call, Item, items, right_name, valid

AREA: dict[str, Any] = {
    "name": "shapes.area",
    "description": "Area of a rectangle.",
    "parameters": {
        "type": "dict",
        "properties": {
            "width": {"type": "integer", "description": "Its width."},
            "height": {"type": "float", "description": "Its height."},
            "unit": {"type": "string", "description": "Of the result.", "default": "cm"},
        },
        "required": ["width", "height"],
    },
}
ROUTE: dict[str, Any] = {
    "name": "route",
    "description": "A way through places.",
    "parameters": {
        "type": "dict",
        "properties": {
            "ends": {"type": "tuple", "description": "From and to.", "items": {"type": "float"}},
            "stops": {
                "type": "array",
                "description": "On the way.",
                "items": {"type": "dict", "properties": {"name": {"type": "any", "description": "Its name."}}},
            },
            "options": {
                "type": "dict",
                "description": "More.",
                "properties": {"tolls": {"type": "boolean", "description": "Whether to pay."}},
            },
        },
        "required": ["ends"],
    },
}
QUESTION = {
    "id": "multiple_7",
    "question": [[{"role": "user", "content": "How large is a rectangle of 3 by 4 cm?"}]],
    "function": [ROUTE, AREA],
}
ANSWER = {
    "id": "multiple_7",
    "ground_truth": [{"shapes.area": {"width": [3], "height": [4.0], "unit": ["", "cm"]}}],
}
ITEM = Item.of("multiple", QUESTION, ANSWER)


def test_an_item_is_a_question_with_tools() -> None:
    assert ITEM.messages == QUESTION["question"][0]
    area = ITEM.tools[1]
    assert area["type"] == "function"
    assert (area["function"]["name"], area["function"]["description"]) == ("shapes_area", AREA["description"])
    assert area["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "width": {"type": "integer", "description": "Its width."},
            "height": {
                "type": "number",
                "format": "float",
                "description": "Its height. This is a float type value.",
            },
            "unit": {"type": "string", "description": "Of the result.", "default": "cm"},
        },
        "required": ["width", "height"],
    }
    assert ITEM.length == len(json.dumps([ITEM.messages, ITEM.tools]))


def test_types_are_those_of_json_at_any_depth() -> None:
    parameters = ITEM.tools[0]["function"]["parameters"]["properties"]
    assert parameters["ends"] == {"type": "array", "description": "From and to.", "items": {"type": "number"}}
    assert parameters["stops"]["items"]["type"] == "object"
    assert parameters["stops"]["items"]["properties"]["name"]["type"] == "string"
    assert parameters["options"]["properties"]["tolls"]["type"] == "boolean"


def test_the_suites_own_descriptions_stay_as_they_are() -> None:
    before = json.dumps(ITEM.functions)
    assert ITEM.tools
    assert json.dumps(ITEM.functions) == before
    assert ITEM.functions[1]["name"] == "shapes.area"


def test_an_answer_belongs_to_its_question() -> None:
    with pytest.raises(ValueError, match="multiple_7"):
        Item.of("multiple", QUESTION, {**ANSWER, "id": "multiple_8"})


def test_the_right_function_is_called_once() -> None:
    assert right_name(ITEM, [("shapes_area", "no JSON")])
    assert not right_name(ITEM, [])
    assert not right_name(ITEM, [("route", "{}")])
    assert not right_name(ITEM, [("shapes_area", "{}")] * 2)


@pytest.fixture(scope="session")
def suite() -> Path:
    """The unpacked wheel; the first use fetches it."""
    return PACKAGE.fetched()


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([("shapes_area", '{"width": 3, "height": 4.0, "unit": "cm"}')], True),
        ([("shapes_area", '{"width": 3, "height": 4}')], True),
        ([("shapes_area", '{"width": 3, "height": 5.0}')], False),
        ([("shapes_area", '{"width": "3", "height": 4.0}')], False),
        ([("shapes_area", '{"width": 3}')], False),
        ([("shapes_area", '{"width": 3, "height": 4.0, "colour": "red"}')], False),
        ([("route", '{"width": 3, "height": 4.0}')], False),
        ([("shapes_area", '{"width": 3, "height": 4.0}')] * 2, False),
        ([("shapes_area", '{"width": 3, "height"')], False),
        ([("shapes_area", "[3, 4.0]")], False),
        ([("shapes_area", '"width height"')], False),
        ([("shapes_area", "null")], False),
        ([("shapes_area", "")], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("category", ["simple", "multiple"])
def test_calls_as_the_suite_judges_them(category: str, calls: list[Call], expected: bool) -> None:
    item = Item.of(category, {**QUESTION, "function": [AREA] if category == "simple" else [ROUTE, AREA]}, ANSWER)
    assert valid(item, calls) == expected


def test_the_suite_leaves_nothing_behind(suite: Path) -> None:
    assert not valid(ITEM, [])
    assert not [name for name in sys.modules if name.startswith(PACKAGE.name)]
    assert str(suite) not in sys.path


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize(("category", "count"), [("simple", 400), ("multiple", 200)])
def test_every_item_of_the_suite_can_be_asked(category: str, count: int) -> None:
    found = items(category)
    assert len(found) == count
    assert all(item.category == category and item.messages and item.length > 100 for item in found)
    names = [tool["function"]["name"] for item in found for tool in item.tools]
    assert all("." not in name for name in names)
    assert all((len(item.tools) == 1) == (category == "simple") for item in found)
