from pathlib import Path

import pytest
from huggingface_hub.errors import CacheNotFound

from server.models import default, listing


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan() -> None:
        raise CacheNotFound("none", cache_dir=Path("none"))

    monkeypatch.setattr(listing, "scan_cache_dir", scan)


def test_default_is_listed_before_it_is_there(cache: Path) -> None:
    [model] = listing.list_models()
    assert (model.argument, model.size_bytes) == ("smollm2-135m", 0)
    assert "converted when first served" in model.place


def test_default_from_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "PACKAGE", "no-such-package")
    [model] = listing.list_models()
    assert "Hugging Face hub" in model.place


def test_what_lies_in_the_cache(cache: Path) -> None:
    for name in (default.default_checkpoint().name, "tuned", ".half-done"):
        folder = cache / "models" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / file).write_text("12")
    models = listing.list_models()
    assert [(model.argument, model.size_bytes) for model in models] == [
        ("smollm2-135m", 6),
        (str(cache / "models" / "tuned"), 6),
    ]
