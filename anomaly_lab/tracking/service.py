"""Whether the W&B service can be reached."""

import http.client
import ssl
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import wandb

NO_KEY = "no key is configured"
ANSWER_SECONDS = 5.0


def obstacle(settings: "wandb.Settings | None" = None) -> str | None:
    """The reason why W&B cannot be used online, in one line; None if it seems usable.

    Without `settings`, those of W&B's session count, whatever WANDB_MODE says.
    """
    import wandb

    settings = settings or wandb.setup(wandb.Settings(silent=True, mode="online")).settings
    try:
        if not wandb.login(prompt=False, verify=False):
            return NO_KEY
    except wandb.Error as error:
        return f"the key is not valid ({' '.join(str(error).split())})"
    return None if answers(settings.base_url) else f"{settings.base_url} does not answer"


def remedy(reason: str) -> str:
    """The end of an error message: a remedy for an obstacle, if it is not obvious."""
    return "; `wandb login` or WANDB_API_KEY sets one" if reason == NO_KEY else ""


def answers(url: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether a web server answers at all within some seconds.

    wandb itself waits for minutes without an answer, at the start and again at the end of the process.
    """
    found = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                found.set()
        except urllib.error.HTTPError as error:  # an answer, too
            error.close()
            found.set()
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):  # somebody is there; wandb has certificates of its own
                found.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    # The timeout of a socket leaves the look-up of the name out; a thread that hangs in it is left behind.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return found.is_set()
