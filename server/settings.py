"""All settings of `redraft serve`: command-line flags, then REDRAFT_* variables, then a TOML file, then defaults."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

CONFIG_FILE = Path("redraft.toml")
OF_THE_ENGINE = (
    "dtype",
    "max_model_len",
    "kv_cache_gib",
    "step_tokens",
    "compile",
    "enable_lora",
    "training",
    "logits_processor",
    "srgen_positions",
)
"""Settings of an engine in this process's care, which a gateway in front of others does not have."""


class Settings(BaseSettings):
    """What an operator decides. A request can change none of it."""

    model_config = SettingsConfigDict(
        env_prefix="REDRAFT_", toml_file=CONFIG_FILE, extra="forbid", frozen=True, protected_namespaces=()
    )

    engine: Literal["embedded", "remote"] = Field(
        "embedded", description="embedded: vLLM in this process's care; remote: vLLM servers at --upstream."
    )
    upstream: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Base URL of a vLLM server or of a router before some; repeatable."
    )
    upstream_key: SecretStr | None = Field(None, description="API key for the upstream servers.")
    upstream_ca: Path | None = Field(None, description="CA bundle (PEM) for them; default: the usual ones.")
    upstream_verify: bool = Field(True, description="Check their certificates.")
    upstream_connect_seconds: float = Field(5.0, gt=0, description="Longest wait for a connection to one.")
    upstream_silence_seconds: float = Field(120.0, gt=0, description="Silence after which one is given up.")

    model: str | None = Field(None, description="Hugging Face id or local path; default: SmolLM2-135M-Instruct.")
    served_model_name: str | None = Field(None, description="Name in /v1/models; default: from the model.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Accepted API key; repeat the flag, or separate with commas in the environment."
    )
    allowed_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Origin of web pages that may ask, for CORS; repeatable."
    )

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: fastest for this CPU.")
    max_model_len: int | None = Field(None, ge=16, description="Longest prompt plus answer, in tokens.")
    kv_cache_gib: float | None = Field(None, gt=0, description="CPU KV cache in GiB; default: from free memory.")
    step_tokens: int | None = Field(None, ge=32, description="Tokens of one engine step; default: 256 on CPU.")
    compile: bool = Field(False, description="Compile the model: minutes more to start, 20 to 40% faster on CPU.")
    chat_template: Path | None = Field(None, description="Jinja file; default: the model's own.")
    tool_call_parser: str | None = Field(None, description="vLLM tool parser, for instance hermes.")
    reasoning_parser: str | None = Field(None, description="vLLM reasoning parser, for models that think.")
    enable_lora: bool = Field(False, description="Serve adapters (LoRA) that vLLM's own --lora-modules names.")
    adapters: Path | None = Field(None, description="Folder of adapters (LoRA), each a folder: served by their names.")
    adapter_slots: int = Field(4, ge=1, le=64, description="Adapters in one step of the engine.")
    training: bool = Field(
        False, description="Train adapters while requests wait (ttsi): a process with weights of its own."
    )
    training_seconds: float = Field(120.0, gt=0, description="Longest training of one adapter.")
    training_memory_gib: float = Field(4.0, gt=0, description="Memory of a training beside the weights, on a CPU.")
    training_gpu_share: float = Field(
        0.2, gt=0, le=0.5, description="Share of the GPU's memory that trainings may take, weights and all."
    )
    training_threads: int = Field(1, ge=1, description="Threads of a training, on a CPU.")
    max_queued_trainings: int = Field(8, ge=0, description="Trainings that wait for their turn; more fail.")
    kept_adapters_mib: int = Field(256, ge=0, description="Trained adapters that are kept, in MiB.")
    teacher_url: str | None = Field(None, description="OpenAI-compatible endpoint of a stronger model (ttsi), to /v1.")
    teacher_model: str | None = Field(None, description="Its name there.")
    teacher_key: SecretStr = Field(SecretStr("none"), description="API key for it.")
    teacher_calls: int = Field(4, ge=1, description="Calls of it at the same time; more wait.")
    logits_processor: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="module:Class loaded into the engine; repeatable."
    )
    otlp_traces_endpoint: str | None = Field(None, description="OpenTelemetry collector for traces.")

    max_body_bytes: int = Field(4 * 2**20, gt=0, description="Largest request body.")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="Longest prompt of a strategy run; default: what the model takes."
    )
    max_concurrent_runs: int = Field(64, gt=0, description="Strategy runs at the same time.")
    max_queued_runs: int = Field(64, ge=0, description="Strategy runs that wait for their turn; more get a 429.")
    max_run_tokens: int | None = Field(None, gt=0, description="Upper bound of budget.max_tokens of any run.")
    max_run_seconds: float = Field(600.0, gt=0, description="Upper bound and default of budget.max_seconds.")
    srgen_positions: int | None = Field(
        None,
        gt=0,
        description="Longest text that srgen corrects, in tokens, less with more than 3 steps; all of a batch wait "
        "while it does. Default: 2048 on a CPU, 32768 on a GPU.",
    )
    heartbeat_seconds: float = Field(10.0, gt=0, description="Silence after which a stream gets an SSE comment.")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: Literal["text", "json"] = Field("text", description="Readable lines, or one JSON object a line.")

    @property
    def adapts(self) -> bool:
        """Whether the engine takes adapters."""
        return self.enable_lora or self.training or self.adapters is not None

    @model_validator(mode="after")
    def _teacher_has_a_name(self) -> Self:
        if (self.teacher_url is None) != (self.teacher_model is None):
            raise ValueError("--teacher-url and --teacher-model go together")
        return self

    @field_validator("upstream")
    @classmethod
    def _are_base_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("each is a URL such as http://host:8000")
            if parts.username is not None or parts.password is not None:
                raise ValueError("no key in a URL: it would be logged; use REDRAFT_UPSTREAM_KEY")
        bases = tuple(url.rstrip("/").removesuffix("/v1") for url in urls)
        if len(set(bases)) < len(bases):
            raise ValueError("the same one twice")
        return bases

    @model_validator(mode="after")
    def _engine_and_upstream_go_together(self) -> Self:
        if (self.engine == "remote") != bool(self.upstream):
            raise ValueError("--engine remote and --upstream go together")
        given = [name for name in OF_THE_ENGINE if getattr(self, name) != type(self).model_fields[name].default]
        if self.engine == "remote" and given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"{flags}: with --engine remote that is decided where the upstream servers are started")
        return self

    @field_validator("api_key", "allowed_origin", "logits_processor", "upstream", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable of the environment holds several values between commas."""
        if not isinstance(value, str):
            return value
        parts = tuple(filter(None, (part.strip() for part in value.split(","))))
        if value.strip() and not parts:
            raise ValueError("nothing but commas; leave it out for the default")  # Not a server open to everybody.
        return parts

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before variables before the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
