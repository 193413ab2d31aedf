"""timm's hub, as far as it can be asked without PyTorch and timm."""

import urllib.request
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError

TIMEOUT = 10  # seconds after which a hub that does not answer counts as unreachable
WEIGHTS = "model.safetensors"  # the usual name of a model's file


def answer(address: str) -> None:
    """Return once the hub has answered, whatever it says. Raises OSError where it does not within 10 s."""
    with suppress(HTTPError):
        _head(address)


def can_be_had(name: str) -> str | None:
    """Where the weights of a model, named with its tag, can be had without a file; None: nowhere."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache  # half a second, for few commands

    repository = f"timm/{name}"
    if isinstance(try_to_load_from_cache(repository, WEIGHTS), str):
        return "the cache of timm's hub"
    with suppress(OSError, HTTPException):
        if not constants.HF_HUB_OFFLINE:
            _head(hf_hub_url(repository, WEIGHTS))
            return "timm's hub"
    return None


def _head(address: str) -> None:
    urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
