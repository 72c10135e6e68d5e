from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a file, and an environment without a variable."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"REDRAFT_{name.upper()}", raising=False)


def test_flags_before_variables_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8000
    Path("redraft.toml").write_text("port = 1\nhost = '::1'\nmax_queued_runs = 3\n")
    assert Settings().port == 1
    monkeypatch.setenv("REDRAFT_PORT", "2")
    assert Settings().port == 2
    assert Settings(port=3).port == 3
    assert (Settings(port=3).host, Settings(port=3).max_queued_runs) == ("::1", 3)


def test_several_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [key.get_secret_value() for key in Settings().api_key]

    assert keys() == []
    Path("redraft.toml").write_text("api_key = ['a', 'b']\n")
    assert keys() == ["a", "b"]
    monkeypatch.setenv("REDRAFT_API_KEY", "c, d,")
    assert keys() == ["c", "d"]
    monkeypatch.setenv("REDRAFT_API_KEY", "e")
    assert keys() == ["e"]


def test_keys_are_not_shown() -> None:
    settings = Settings(api_key=("hidden",))
    assert "hidden" not in repr(settings)
    assert "hidden" not in settings.model_dump_json()


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 70000},
        {"kv_cache_gib": 0},
        {"max_body_bytes": 0},
        {"max_concurrent_runs": 0},
        {"max_queued_runs": -1},
        {"max_run_seconds": 0},
        {"heartbeat_seconds": 0},
        {"log_level": "loud"},
        {"dtype": "int4"},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(**wrong)  # type: ignore[arg-type]
    assert error.value.errors()[0]["loc"] == tuple(wrong)


@pytest.mark.parametrize("value", [",", " , ,"])
def test_nothing_but_commas_is_no_key(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """It would open the server to everybody."""
    monkeypatch.setenv("REDRAFT_API_KEY", value)
    with pytest.raises(ValidationError):
        Settings()


def test_an_unknown_key_in_the_file_is_refused() -> None:
    Path("redraft.toml").write_text("prot = 1\n")
    with pytest.raises(ValidationError):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_upstream_servers() -> None:
    settings = Settings(engine="remote", upstream="http://one:8000/v1/, https://two")
    assert settings.upstream == ("http://one:8000", "https://two")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"engine": "remote"}, "go together"),
        ({"upstream": "http://one"}, "go together"),
        ({"engine": "remote", "upstream": "one:8000"}, "a URL such as"),
        ({"engine": "remote", "upstream": "http://me:secret@one"}, "REDRAFT_UPSTREAM_KEY"),
        ({"engine": "remote", "upstream": "http://one,http://one/v1"}, "the same one twice"),
        ({"engine": "remote", "upstream": "http://one", "training": True}, "--training: with --engine remote"),
        ({"engine": "remote", "upstream": "http://one", "kv_cache_gib": 1}, "--kv-cache-gib: with --engine remote"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_with_upstream_servers(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Settings(**changes)  # type: ignore[arg-type]
