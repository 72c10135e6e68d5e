import pytest

from benchmarks.load import LoadError, client
from benchmarks.peers import asking
from benchmarks.peers.asking import Heard


def body(tokens: int, stream: bool = False) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens, "stream": stream}


async def heard(url: str, sent: dict[str, object]) -> Heard:
    async with client(url) as http:
        return await asking.heard(http, sent)


async def test_an_answer_in_one_piece(url: str) -> None:
    answer = (await heard(f"{url}/honest", body(3))).checked()
    assert answer.texts == ["word word word "]
    assert answer.reported == {"prompt": 10, "completion": 3}
    assert answer.first_byte is None


async def test_every_choice_is_heard(url: str) -> None:
    answer = await heard(f"{url}/honest", body(2) | {"n": 3})
    assert answer.texts == ["word word "] * 3


async def test_what_is_not_counted_is_none(url: str) -> None:
    assert (await heard(f"{url}/careless", body(8))).reported == {"prompt": 0, "completion": 4}
    assert (await heard(f"{url}/careless", body(8, stream=True))).reported == {"prompt": 0, "completion": 0}


async def test_a_stream_is_timed_to_its_first_byte_and_text(url: str) -> None:
    answer = (await heard(f"{url}/honest", body(20, stream=True))).checked()
    assert answer.texts == ["word " * 20]
    assert answer.reported == {"prompt": 10, "completion": 20}
    assert answer.first_byte is not None
    assert answer.first_text is not None
    assert answer.first_byte <= answer.first_text < answer.seconds


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_is_told_in_the_gateways_words(url: str, stream: bool) -> None:
    answer = await heard(f"{url}/broken", body(1, stream))
    assert answer.error.startswith("status 500: ")
    with pytest.raises(LoadError, match="out of order"):
        answer.checked()


async def test_no_server_is_a_failure_too() -> None:
    assert "ConnectError" in (await heard("http://127.0.0.1:1", body(1))).error


async def test_a_client_leaves_only_what_goes_on(url: str) -> None:
    async with client(f"{url}/honest") as http:
        assert await asking.left(http, body(1000), 0.05)
        assert not await asking.left(http, body(1), 60)
