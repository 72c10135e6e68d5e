from typing import Any

import pytest

from benchmarks.loading.arrivals import Loaded, Served
from benchmarks.loading.summary import BenchError, Summary
from benchmarks.peers.asking import Heard

# As `vllm bench serve --save-detailed` writes it: three requests, of which the second failed.
RESULT: dict[str, Any] = {
    "request_rate": 2.0,
    "max_concurrency": None,
    "duration": 4.0,
    "completed": 2,
    "failed": 1,
    "total_output_tokens": 64,
    "output_lens": [32, 0, 32],
    "ttfts": [0.5, 0.0, 0.7],
    "latencies": [1.5, 0.1, 2.5],
    "queue_times": [0.25, 0.0, 0.5],
    "errors": ["", "Service Unavailable", ""],
}


def test_waiting_counts_from_when_a_request_came() -> None:
    heard = Heard(2.0, ["a"], {"completion_tokens": 10}, 0.5, 0.5, 1.5)
    late = Heard(4.0, ["a"], {"completion_tokens": 30}, 1.0, None, 1.0)
    failed = Heard(0.5, error="status 429")
    found = Summary.of(Loaded([Served(0.0, heard), Served(1.0, late), Served(0.25, failed)], 8.0))
    assert found.latency == [2.0, 5.0]
    assert found.first_thought == [0.5]
    assert found.first_answer == [1.5, 2.0]
    assert (found.requests, found.errors, found.waited) == (3, ["status 429"], 1.0)
    assert (found.request_rate, found.token_rate) == (0.25, 5.0)
    assert found.at("latency", 0.5) == 3.5


def test_nothing_served_is_no_number() -> None:
    found = Summary.of(Loaded([Served(0.0, Heard(1.0, error="status 500"))], 2.0))
    assert (found.request_rate, found.token_rate, found.at("latency", 0.5)) == (0.0, 0.0, None)


def test_vllms_result_is_read_with_its_queue() -> None:
    found = Summary.of_vllm(RESULT)
    assert found.latency == [1.75, 3.0]
    assert found.first_answer == [0.75, 1.2]
    assert found.first_thought == []
    assert (found.requests, found.errors, found.tokens) == (3, ["Service Unavailable"], 64)
    assert (found.request_rate, found.token_rate) == (0.5, 16.0)


def test_users_who_stay_do_not_wait_before_they_ask() -> None:
    found = Summary.of_vllm(RESULT | {"request_rate": "inf", "max_concurrency": 1, "queue_times": [0.0, 1.5, 1.6]})
    assert found.latency == [1.5, 2.5]


@pytest.mark.parametrize("name", ["errors", "latencies", "request_rate", "failed"])
def test_another_result_is_refused(name: str) -> None:
    with pytest.raises(BenchError, match=name):
        Summary.of_vllm({key: value for key, value in RESULT.items() if key != name})
