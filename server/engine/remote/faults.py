"""What goes wrong between this gateway and a replica, and what a client is told of it."""

import json
from collections.abc import Mapping

RETRY_AFTER = "Retry-After"
_OVERLOADED = frozenset({429, 503})
_BROKEN = frozenset({502, 504})
_DEAD = "EngineCore encountered an issue"
"""As vLLM's server says it, while it outlives its engine."""


class UpstreamError(Exception):
    """What a client is told: a status, a message, and when to come again.

    Args:
        status: of the response.
        message: what is wrong. It names no address and no key.
        retry_after: the replica's own header, if it sent one.
    """

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Fault(Exception):
    """A replica failed before it gave a token, or after.

    Args:
        what: what a client may read of it.
        blame: whether the replica's circuit counts it.
        begun: whether the replica may have worked on the request: then it is not sent everywhere, for a request that
            kills one replica would kill them all.
        fatal: whether one such fault opens the circuit: waiting for more of them would harm requests.
        error: what the client gets if no other replica answers.
    """

    def __init__(
        self, what: str, *, blame: bool = True, begun: bool = True, fatal: bool = False, error: UpstreamError
    ) -> None:
        super().__init__(what)
        self.blame = blame
        self.begun = begun
        self.fatal = fatal
        self.error = error


def unreachable(reason: str) -> Fault:
    """No connection: nothing has begun."""
    what = f"an upstream server cannot be reached: {reason}"
    return Fault(what, begun=False, fatal=True, error=UpstreamError(503, what))


def silent(seconds: float) -> Fault:
    """It said nothing for too long."""
    what = f"an upstream server said nothing for {seconds:g} seconds"
    return Fault(what, error=UpstreamError(504, what))


def broken(reason: str) -> Fault:
    """The connection ended before the answer did."""
    what = f"an upstream server broke off: {reason}"
    return Fault(what, error=UpstreamError(502, what))


def garbage(reason: str) -> Fault:
    """It answers what no vLLM would."""
    what = f"an upstream server answered what cannot be read: {reason}"
    return Fault(what, error=UpstreamError(502, what))


def another_model(model: str) -> Fault:
    """It has come back with another model."""
    what = f"an upstream server does not serve {model} any more"
    return Fault(what, begun=False, fatal=True, error=UpstreamError(503, what))


def lacking() -> Fault:
    """It has no such route, or stands for something that is not there: another one may have it."""
    what = "an upstream server has no such route"
    return Fault(what, blame=False, begun=False, error=UpstreamError(404, what))


def without_adapter(model: str, *, loaded: bool) -> Fault:
    """It serves its model, but not this adapter, unless that was loaded just now: then it may be asked again."""
    what = f"an upstream server had lost {model}" if loaded else f"an upstream server does not serve {model}"
    return Fault(what, blame=False, begun=False, error=UpstreamError(503 if loaded else 404, what))


def ours(what: str, status: int) -> Fault:
    """The gateway's own: no replica has seen the request, and none is to blame."""
    return Fault(what, blame=False, begun=False, error=UpstreamError(status, what, "1" if status == 503 else None))


def told(status: int, message: str, after: str | None = None) -> Fault | UpstreamError:
    """An error in an upstream server's own words: the request's, unless its engine has died, which is the server's."""
    if status >= 500 and message.startswith(_DEAD):
        what = "an upstream server's engine has died"
        return Fault(what, fatal=True, error=UpstreamError(503, what))
    return UpstreamError(status, message, after)


def none_left() -> UpstreamError:
    """Every circuit is open."""
    return UpstreamError(503, "no upstream server is available; try again later", "1")


def refusal(status: int, body: bytes, headers: Mapping[str, str], model: str | None) -> Fault | UpstreamError:
    """What an error status means: a Fault that another replica may mend, or the request's own error.

    Args:
        status: of the response, 400 or more.
        body: of the response.
        headers: of the response.
        model: the model that this replica is known to serve, if the request is for it.
    """
    message, after = message_of(body), headers.get(RETRY_AFTER)
    if status in _OVERLOADED:
        # Busy is not broken: the circuit stays closed, and another replica may have room.
        said = message or "an upstream server is overloaded"
        return Fault(said, blame=False, begun=False, error=UpstreamError(status, said, after))
    if status == 401:
        # Never a client's own: it would take its key for the wrong one.
        what = "an upstream server refuses this gateway's key"
        return Fault(what, begun=False, error=UpstreamError(502, what))
    if status == 404 and model is not None and model in (message or ""):
        return another_model(model)
    if status == 404 and message is None:
        return lacking()
    if status in _BROKEN:
        return broken(f"status {status}")
    if message is not None or status < 500:
        # Whose fault a 4xx is does not hang on its wording: not every server has OpenAI's.
        return told(status, message or f"an upstream server refuses the request with status {status}", after)
    return garbage(f"status {status} without an error")


def status_of(body: bytes) -> int:
    """The status that an error in OpenAI's envelope names; 502 if it names none."""
    code = json.loads(body)["error"].get("code")
    return int(code) if str(code).isdigit() and 400 <= int(code) <= 599 else 502


def message_of(body: bytes) -> str | None:
    """The message of an error in OpenAI's envelope; None if this is none."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return message if isinstance(message, str) else None
