"""When a replica is asked, left out, and looked at again."""

from server.engine.remote.circuit import MAX_COOLDOWN_SECONDS, Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_in_a_row_open_it() -> None:
    circuit = Circuit(failures=3)
    for _ in range(2):
        circuit.fail()
    circuit.succeed()
    for _ in range(2):
        circuit.fail()
    assert circuit.closed
    circuit.fail()
    assert not circuit.closed


def test_a_fatal_one_opens_it_at_once() -> None:
    circuit = Circuit(failures=3)
    circuit.fail(fatal=True)
    assert not circuit.closed


def test_one_looks_after_the_cooldown_and_nobody_else() -> None:
    clock = Clock()
    circuit = Circuit(cooldown=5, clock=clock)
    circuit.fail(fatal=True)
    due = [circuit.due]
    clock.now += 5
    due.append(circuit.due)
    circuit.look()
    due.append(circuit.due)
    circuit.looked(well=True)
    assert due == [False, True, False]
    assert circuit.closed


def test_each_look_that_fails_doubles_the_cooldown_up_to_a_bound() -> None:
    clock = Clock()
    circuit = Circuit(cooldown=5, clock=clock)
    circuit.fail(fatal=True)
    for wait in (5, 10, 20, 40, MAX_COOLDOWN_SECONDS, MAX_COOLDOWN_SECONDS):
        clock.now += wait - 0.5
        early = circuit.due
        clock.now += 0.5
        assert (early, circuit.due) == (False, True)
        circuit.look()
        circuit.looked(well=False)


def test_an_answer_from_before_does_not_close_it() -> None:
    circuit = Circuit()
    circuit.fail(fatal=True)
    circuit.succeed()
    assert not circuit.closed


def test_after_a_look_a_request_has_to_show_that_it_is_well() -> None:
    """A server answers a look though its engine hangs."""
    clock = Clock()
    circuit = Circuit(failures=3, cooldown=5, clock=clock)
    for _ in range(3):
        circuit.fail()
    for wait in (5, 10, 20):
        clock.now += wait - 0.5
        due = [circuit.due]
        clock.now += 0.5
        due.append(circuit.due)
        assert due == [False, True]
        circuit.look()
        circuit.looked(well=True)
        states = [circuit.closed]
        circuit.fail()
        states.append(circuit.closed)
        assert states == [True, False]
    clock.now += 40
    circuit.look()
    circuit.looked(well=True)
    circuit.succeed()
    circuit.fail()
    assert circuit.closed, "it has shown it"
