"""vLLM servers elsewhere as vLLM's own serving classes, and the Engine port over them, see an engine.

It has what AsyncLLM has of these: the model's configuration, its renderer, and `generate`. All that is built on those
(templates, parsers, scoring, decoders) is then the same as in front of an engine in this process's care.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from vllm.config import VllmConfig
from vllm.exceptions import GracefulHTTPError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.renderers import renderer_from_config
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor

from server.engine.remote.faults import Fault, UpstreamError, broken
from server.engine.remote.messages import MessagesCall, MessagesReader
from server.engine.remote.probe import Found
from server.engine.remote.replicas import SESSION, Attempt, Replica, Replicas, fault_of, session_of
from server.engine.remote.sse import EVENTS, payloads, whole_events
from server.engine.remote.wire import ABORT, ID_PREFIX, Reader, TokenCall

PATIENCE_SECONDS = 1.0
"""How long a call that was told to stop may still say how many tokens it had. Then its connection is closed."""

logger = logging.getLogger("redraft.remote")


T = TypeVar("T")


class CallFailed(GracefulHTTPError):
    """An UpstreamError as vLLM's serving classes know errors that carry a status."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(str(error), HTTPStatus(error.status))
        self.status = error.status
        self.retry_after = error.retry_after


@dataclass(slots=True)
class _Running:
    """A call that is under way."""

    session: str
    tells: bool
    """Whether its replica says where it ended, if it is asked to."""
    replica: Replica | None = None
    told: float | None = None
    """When it was first told to stop."""
    cut: bool = False
    wait: asyncio.Timeout | None = None
    """Of what it waits for."""

    async def until_cut(self, awaitable: Awaitable[T]) -> T | None:
        """What it waits for, None once it is cut."""
        self.wait = asyncio.timeout(0 if self.cut else None)
        try:
            async with self.wait:
                return await awaitable
        except TimeoutError:
            if not self.cut:
                raise
            return None
        finally:
            self.wait = None

    def end(self) -> None:
        """Cuts it."""
        self.cut = True
        if self.wait is not None:
            self.wait.reschedule(asyncio.get_running_loop().time())


class RemoteClient:
    """The upstream servers as one engine.

    Args:
        replicas: the servers.
        config: of the model that they serve, made from its files on this machine.
        found: what they can do.
    """

    errored = False
    dead_error = EngineDeadError()
    logger_manager = None
    """Each server has its own."""

    def __init__(self, replicas: Replicas, config: VllmConfig, found: Found) -> None:
        self.replicas = replicas
        self.vllm_config = config
        self.model_config = config.model_config
        self.renderer = renderer_from_config(config)
        self.input_processor = InputProcessor(config, self.renderer)
        self.offers = found.capabilities
        self._model = found.identity.model
        self._running: dict[str, _Running] = {}
        self._adapters: dict[int, str] = {}

    async def generate(
        self,
        prompt: Mapping[str, Any],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        session_id: str | None = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """One call, at the session's replica, or at another where that fails before its first token.

        Raises:
            CallFailed: no replica answers, or one refuses the call, or breaks off.
        """
        model = self._model if lora_request is None else lora_request.lora_name
        call: TokenCall | MessagesCall
        if "messages" in prompt:
            call = MessagesCall(request_id, model, prompt, sampling_params)
        else:
            call = TokenCall(
                request_id,
                model,
                prompt,
                sampling_params,
                priority=priority,
                reasoning_ended=reasoning_ended,
                reasoning_parser_kwargs=reasoning_parser_kwargs,
                max_logprobs=self.model_config.max_logprobs,
            )
        session = session_of(session_id or request_id)
        headers = {
            **(trace_headers or {}),
            "Content-Type": "application/json",
            "X-Request-Id": request_id,
            SESSION: session,
        }
        body = call.body()
        self._running[request_id] = running = _Running(session, tells=isinstance(call, TokenCall))
        try:
            async with aclosing(self.replicas.attempts(session)) as attempts:
                async for attempt in attempts:
                    with attempt:
                        running.replica = attempt.replica
                        async with aclosing(self._answer(attempt, call, body, headers, running)) as outputs:
                            async for output in outputs:
                                if output.outputs[0].finish_reason == "abort" and running.told is None:
                                    raise broken("it ended the call")
                                attempt.sent = True
                                yield output
        except UpstreamError as error:
            raise CallFailed(error) from error
        finally:
            del self._running[request_id]

    async def _answer(
        self,
        attempt: Attempt,
        call: TokenCall | MessagesCall,
        body: bytes,
        headers: Mapping[str, str],
        running: _Running,
    ) -> AsyncGenerator[RequestOutput, None]:
        reader, ended = call.reader(self.renderer.tokenizer), False
        try:
            if running.told is None:
                async with AsyncExitStack() as stack:
                    post = self.replicas.post(attempt, call.path, body, headers, call.model)
                    response = await running.until_cut(stack.enter_async_context(post))
                    async with aclosing(_outputs(response, reader, running)) as outputs:
                        async for output in outputs:
                            yield output
                            ended = output.finished
            if not (ended or reader.complete or running.told is not None):
                raise broken("the stream ended without an end")
        except (Fault, UpstreamError, httpx.HTTPError):
            if running.told is None and not ended:
                raise
        if not ended:
            yield reader.last()

    async def abort(self, request_id: str) -> None:
        """Ends the work on a call. Its replica is told, and has a moment to say where it ended."""
        running = self._running.get(request_id)
        if running is None or running.replica is None:
            return
        if not running.tells:
            running.told = time.monotonic()
            running.end()
        elif running.told is None:
            running.told = time.monotonic()
            with suppress(Fault, UpstreamError, httpx.HTTPError, TimeoutError):
                ids = {"request_ids": [ID_PREFIX + request_id]}
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.replicas.tell(running.replica, ABORT, ids, {SESSION: running.session})
        elif time.monotonic() - running.told >= PATIENCE_SECONDS:
            running.end()

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Loads an adapter into every replica, from a folder that all of them see. Raises CallFailed."""
        body = {"lora_name": lora_request.lora_name, "lora_path": lora_request.lora_path}
        loaded, fault = False, None
        for replica in self.replicas.all:
            try:
                await self.replicas.load(replica, body)
                loaded = True
            except UpstreamError as error:
                raise CallFailed(error) from error
            except (Fault, httpx.HTTPError) as error:
                if (fault := fault_of(error)) is None:
                    raise
        if not loaded and fault is not None:
            raise CallFailed(fault.error)
        # One that is away gets it when it is back.
        self.replicas.adapters[lora_request.lora_name] = body
        self._adapters[lora_request.lora_int_id] = lora_request.lora_name
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Unloads an adapter from every replica."""
        name = self._adapters.pop(lora_id)
        self.replicas.adapters.pop(name, None)
        for replica in self.replicas.all:
            with suppress(Fault, UpstreamError, httpx.HTTPError):
                await self.replicas.tell(replica, "/v1/unload_lora_adapter", {"lora_name": name}, {})
        return True

    async def check_health(self) -> None:
        """Raises EngineDeadError while no replica is there."""
        self.replicas.look()  # A probe may be all that still comes.
        if not any(replica.circuit.closed for replica in self.replicas.all):
            raise EngineDeadError

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """The replicas say it themselves."""

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """Text."""
        return ("generate",)

    async def is_tracing_enabled(self) -> bool:
        """Whether trace headers are passed on."""
        return self.vllm_config.observability_config.otlp_traces_endpoint is not None

    async def reset_mm_cache(self) -> None:
        """There is none here: each replica has its own."""

    async def do_log_stats(self) -> None:
        """Each replica logs its own."""


async def _outputs(
    response: httpx.Response | None, reader: Reader | MessagesReader, running: _Running
) -> AsyncGenerator[RequestOutput, None]:
    """What a response says, read to its very end: else its connection would serve no other call."""
    if response is None:
        return
    if not response.headers.get("content-type", "").startswith(EVENTS):
        yield reader.whole(await response.aread())
        return
    events = whole_events(response.aiter_raw())
    while (data := await running.until_cut(anext(events, None))) is not None:
        for payload in payloads(data):
            for output in reader.delta(payload):
                yield output
