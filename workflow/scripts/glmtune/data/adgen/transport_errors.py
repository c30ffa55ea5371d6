"""What requests and urllib3 say when a download goes wrong, in words that a user understands."""

from __future__ import annotations

from typing import Any

import requests
from urllib3.exceptions import HTTPError, MaxRetryError, NameResolutionError, ReadTimeoutError

from glmtune.data.adgen.patience import Patience


def _cause(error: Exception) -> Any:
    """What urllib3 says, which requests wraps while it connects and not while it receives."""
    if isinstance(error, HTTPError) or not error.args:
        return error
    inner = error.args[0]
    return inner.reason if isinstance(inner, MaxRetryError) else inner


def never_connected(error: Exception) -> bool:
    """Whether no server was reached: then the next place is a better try than this one again."""
    return bool(error.args) and isinstance(error.args[0], MaxRetryError)


def explain(error: Exception, patience: Patience) -> str:
    """What went wrong, without the addresses of objects that a library's message begins with."""
    cause = _cause(error)
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {patience.connect_s:g} s"
    if isinstance(error, requests.ReadTimeout) or isinstance(
        cause, ReadTimeoutError | TimeoutError
    ):
        return f"no data for {patience.read_s:g} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy does not connect ({_last_words(cause)}); check HTTPS_PROXY and NO_PROXY"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection ({_last_words(cause)})"
    if isinstance(cause, NameResolutionError):
        return "no connection: the name of the server is not known here"
    if never_connected(error):
        return f"no connection ({_last_words(cause)})"
    if isinstance(error, ValueError | requests.TooManyRedirects):
        return f"cannot be fetched ({error})"
    return f"the connection was cut ({type(cause).__name__})"


def _last_words(error: Any) -> str:
    """The end of a library's message: before it stands an object's address in memory."""
    return str(error).rsplit(": ", 1)[-1].strip("'\")( ")
