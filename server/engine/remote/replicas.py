"""The upstream servers: connections to them, which one a request goes to, and which one is tried next."""

import asyncio
import errno
import hashlib
import logging
import re
import ssl
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import httpx

from server.engine.remote.circuit import FAILURES, Circuit
from server.engine.remote.faults import (
    Fault,
    UpstreamError,
    another_model,
    broken,
    garbage,
    none_left,
    ours,
    refusal,
    silent,
    unreachable,
    without_adapter,
)
from server.settings import Settings

SESSION = "X-Session-ID"
"""Header by which routers with consistent hashing keep a session's calls on one replica, and by which vLLM knows it."""
KEEP_ALIVE_SECONDS = 4.0
"""Shorter than that of vLLM's server: it should not close a connection just when a request is sent on it."""
MAX_BEGUN = 2
"""Replicas that may begin to work on one request: one that kills a replica should not kill them all."""
LOOK_SECONDS = 5.0
LOAD_ADAPTER = "/v1/load_lora_adapter"
_SENDABLE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]{0,1022}[\x21-\x7e])?")

logger = logging.getLogger("redraft.remote")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica serves. One that comes back with something else is another one."""

    model: str
    root: str
    max_model_len: int | None

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Self:
        """From an entry of /v1/models."""
        return cls(card["id"], card.get("root") or card["id"], card.get("max_model_len"))


@dataclass(slots=True)
class Replica:
    """One upstream server, or a router that stands for some."""

    url: str
    circuit: Circuit = field(default_factory=Circuit)
    looking: asyncio.Task[None] | None = None


class Attempt:
    """One try of one request at one replica. Leave it by an error to have another one tried, if that is possible."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.sent = False
        """Something of the answer has been passed on: there is no way back."""
        self.fault: Fault | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, UpstreamError):
            self.replica.circuit.succeed()  # It has answered, be it with a refusal.
            return False
        fault = fault_of(error)
        if fault is None:
            return False
        logger.warning("%s: %s (%s)", self.replica.url, fault, type(error.__cause__ or error).__name__)
        if fault.blame:
            self.replica.circuit.fail(fatal=fault.fatal)
        if self.sent:
            raise fault.error from error
        self.fault = fault
        return True


class Replicas:
    """All upstream servers of this gateway, over one pool of HTTP/1.1 connections.

    Args:
        settings: where they are, and how to reach them.
        identity: what each of them has to serve, once that is known.
    """

    def __init__(self, settings: Settings, identity: Identity | None = None) -> None:
        # Nobody is there in the place of one alone; and where it stands for several, one may fail and others not.
        failures = FAILURES if len(settings.upstream) > 1 else sys.maxsize
        self.all = [Replica(url, Circuit(failures)) for url in settings.upstream]
        self._identity = identity
        self._timeout = httpx.Timeout(
            settings.upstream_silence_seconds, connect=settings.upstream_connect_seconds, pool=None
        )
        self.adapters: dict[str, Mapping[str, Any]] = {}
        """What was loaded, by name: the body that loads it."""
        key = settings.upstream_key
        self._client = httpx.AsyncClient(
            # What an upstream server sets for one client is no other's; and streams are read as they come.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"Accept-Encoding": "identity"}
            | ({} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}),
            verify=_trust(settings),
            timeout=self._timeout,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes all connections."""
        for replica in self.all:
            if replica.looking is not None:
                replica.looking.cancel()
        await self._client.aclose()

    async def attempts(self, key: str, deadline: float | None = None) -> AsyncGenerator[Attempt, None]:
        """Tries of one request, the next one where the last one ended with a fault. Raises UpstreamError in the end.

        Args:
            key: of the session: the same one goes to the same replica while that is there.
            deadline: monotonic seconds after which none is begun.
        """
        fault, begun = None, 0
        for replica in await self._candidates(key):
            late = deadline is not None and time.monotonic() >= deadline
            if not replica.circuit.closed or (fault is not None and (late or begun >= MAX_BEGUN)):
                continue
            attempt = Attempt(replica)
            yield attempt
            if attempt.fault is None:
                return
            fault = attempt.fault
            begun += fault.begun
        raise none_left() if fault is None else fault.error from fault

    @asynccontextmanager
    async def post(
        self,
        attempt: Attempt,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        model: str | None,
        silence: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """A response whose body has yet to be read, for a status that is no error. Leaving it closes the connection,
        and so ends the replica's work. Raises Fault, UpstreamError, or httpx's errors.

        Args:
            attempt: says which replica.
            path: of the route.
            body: of the request.
            headers: of the request.
            model: that the replica is known to serve, if the request is for it.
            silence: seconds for which it may say nothing, where that is not the settings': an answer that is not
                streamed says nothing before its end.
        """
        url = attempt.replica.url + path
        wait = self._timeout if silence is None else httpx.Timeout(silence, connect=self._timeout.connect, pool=None)
        async with self._client.stream("POST", url, content=body, headers=dict(headers), timeout=wait) as response:
            if response.status_code >= 400:
                content = await response.aread()
                if response.status_code == 404 and model is not None and self._is_adapter(model):
                    if known := self.adapters.get(model):
                        await self.load(attempt.replica, known)  # It has come back without it.
                    raise without_adapter(model, loaded=known is not None)
                raise refusal(response.status_code, content, response.headers, model)
            yield response

    def _is_adapter(self, model: str) -> bool:
        return self._identity is not None and model != self._identity.model

    async def load(self, replica: Replica, body: Mapping[str, Any]) -> None:
        """Loads an adapter into a replica. Raises UpstreamError, Fault, or httpx's errors."""
        try:
            await self.tell(replica, LOAD_ADAPTER, body, {})
        except UpstreamError as error:
            if "already been loaded" not in str(error):
                raise

    async def tell(self, replica: Replica, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """A short request to one replica. Raises UpstreamError, Fault, or httpx's errors."""
        response = await self.ask(replica, path, body, headers)
        if response.status_code >= 400:
            raise refusal(response.status_code, response.content, response.headers, None)

    async def ask(
        self,
        replica: Replica,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        seconds: float = LOOK_SECONDS,
    ) -> httpx.Response:
        """A short request to one replica, whatever it answers. Raises httpx's errors."""
        return await self._client.post(replica.url + path, json=body, headers=headers, timeout=seconds)

    async def models(self, replica: Replica) -> list[dict[str, Any]]:
        """The models of one replica. Raises Fault, UpstreamError, or httpx's errors."""
        response = await self._client.get(f"{replica.url}/v1/models", timeout=LOOK_SECONDS)
        if response.status_code != httpx.codes.OK:
            raise refusal(response.status_code, response.content, response.headers, None)
        try:
            cards = response.json()["data"]
            return [card for card in cards if isinstance(card["id"], str)]
        except (ValueError, KeyError, TypeError) as error:
            raise garbage("no list of models") from error

    def look(self) -> None:
        """Has somebody look at each replica that has been left out for long enough."""
        for replica in self.all:
            if replica.circuit.due:
                replica.circuit.look()
                replica.looking = asyncio.create_task(self._look(replica))

    async def _candidates(self, key: str) -> Sequence[Replica]:
        self.look()
        ready = [replica for replica in self.all if replica.circuit.closed]
        if not ready and (looks := [replica.looking for replica in self.all if replica.looking is not None]):
            await asyncio.wait(looks)
            ready = [replica for replica in self.all if replica.circuit.closed]
        ready.sort(key=lambda replica: _weight(key, replica.url))
        return ready * 2 if len(self.all) == 1 else ready

    async def _look(self, replica: Replica) -> None:
        well = False
        try:
            served = [Identity.of(card) for card in await self.models(replica)]
            if self._identity is not None and self._identity not in served:
                raise another_model(self._identity.model)
            for body in list(self.adapters.values()):
                await self.load(replica, body)
            well = True
            logger.info("%s: it is back", replica.url)
        except (Fault, UpstreamError, httpx.HTTPError) as error:
            logger.warning("%s: still away: %s", replica.url, error)
        finally:
            replica.circuit.looked(well)
            replica.looking = None


def fault_of(error: BaseException) -> Fault | None:
    """What an error says of the replica; None if nothing."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, httpx.LocalProtocolError):
        return ours("the request cannot be sent to an upstream server", 502)
    if _out_of_files(error):
        return ours("this gateway has too many connections", 503)
    reason = type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return unreachable(reason)
    if isinstance(error, httpx.TimeoutException):
        request = error.request.extensions.get("timeout", {})
        return silent(request.get("read") or 0)
    if isinstance(error, httpx.TransportError | httpx.StreamError):
        return broken(reason)
    if isinstance(error, httpx.DecodingError):
        return garbage(reason)
    return None


def _out_of_files(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def sendable(value: str) -> bool:
    """Whether a header can carry a text."""
    return _SENDABLE.fullmatch(value) is not None


def session_of(name: str) -> str:
    """A session's name as a header can carry it."""
    return (
        name if sendable(name) else hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    )


def _weight(key: str, url: str) -> bytes:
    """Rendezvous hashing: a replica that goes or comes moves only the keys that are its own."""
    return hashlib.blake2b(f"{key} {url}".encode(), digest_size=8).digest()


def _trust(settings: Settings) -> ssl.SSLContext | bool:
    """Which certificates are believed. Raises ValueError."""
    if not any(url.startswith("https:") for url in settings.upstream):
        return False  # To load certificates takes long, and nobody shows any.
    if not settings.upstream_verify:
        return False
    if settings.upstream_ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.upstream_ca))
    except OSError as error:
        raise ValueError(f"--upstream-ca {settings.upstream_ca} is no bundle of certificates: {error}") from error
