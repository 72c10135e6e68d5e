"""Where a sentence is put into an answer, and what is left of it."""

from dataclasses import replace

from strategies.engine import Generation
from strategies.iterative_deepening.doubt import Doubt
from strategies.session import Session
from tests.strategies.scripted import ScriptedEngine, generation_of, tokens_of


def said(text: str) -> tuple[Generation, Session]:
    engine = ScriptedEngine([])
    for word in tokens_of(text):
        engine.encode(word)
    return generation_of(text, "length"), Session(engine)


async def test_what_decoders_did_to_dropped_tokens_is_dropped_with_them() -> None:
    """Else they would count against a decoder's own bounds, and be told twice."""
    y, engine = said("hm hm </think> 41")
    reports = ({"position": 1}, {"position": 3}, {"kind": "limit"})
    doubted = Doubt(" no", engine, " </think>").cast(replace(y, reports=reports))
    assert doubted.text == "hm hm no"
    assert doubted.reports == ({"position": 1}, {"kind": "limit"})


async def test_only_the_sentences_that_are_left_are_given() -> None:
    y, engine = said("a b")
    doubt = Doubt(" no no", engine, " </think>")
    once = doubt.cast(y)
    assert (once.text, once.given) == ("a b no no", 2)
    thought = once + said("c </think> d")[0]
    for word in tokens_of("c </think> d"):
        engine.encode(word)
    twice = doubt.cast(thought)
    assert (twice.text, twice.given) == ("a b no noc no no", 4)


async def test_a_sentence_within_a_dropped_part_goes_with_it() -> None:
    y, engine = said("a </think> b")
    doubt = Doubt(" no", engine, " </think>")
    whole = replace(y, finish_reason="stop", stop_reason="b").with_given(" no", engine.encode(" no"))
    doubt._ours = {3}
    doubted = doubt.cast(whole)
    assert (doubted.text, doubted.given) == ("a no", 1)
