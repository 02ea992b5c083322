"""Who may ask the page, and with what: its own script only, about uploads only.

Any site that somebody visits can send requests to 127.0.0.1, and any name can be made to lead there (DNS rebinding). So
a request must call the page by its own name, and come from it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MOST_BYTES = 1 << 22  # of a question: texts, and the names of uploads
_ASKING = ("/queue/join", "/run/", "/api/")  # Gradio's ways to ask that the page's own script takes
_UNUSED = "/call/"  # and one that it does not
_TEXT, _FILE, _FILES = (str, type(None)), (dict, type(None)), (dict, list, type(None))
_TYPES: dict[str, tuple[type, ...]] = {  # of what a component sends; those of others are Gradio's own matter
    "textbox": _TEXT,
    "dropdown": _TEXT,
    "slider": (int, float),
    "image": _FILE,
    "uploadbutton": _FILES,
    "dataset": (int,),
}


class Guard:
    """An ASGI application around the page's own, which refuses what is none of the page's requests.

    Attributes:
        app: The page's own.
        page: The `gradio.Blocks`.
        host: The address that it listens on.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], page: Any, host: str) -> None:
        self.app, self.page, self.host = app, page, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if why := foreign(headers, self.host):
            return await _refuse(scope, send, 403, why)
        path = str(scope["path"])
        if scope["type"] == "websocket" or _UNUSED in path:
            return await _refuse(scope, send, 404, "the page is asked in a browser")
        if scope.get("method") != "POST" or not any(part in path for part in _ASKING):
            return await self.app(scope, receive, send)
        body = await _body_of(receive)
        if body is None:
            return await _refuse(scope, send, 413, f"a question has more than {_MOST_BYTES:,} bytes")
        if why := fault_of(body, self.page):
            return await _refuse(scope, send, 422, why)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return await self.app(scope, again, send)


def foreign(headers: dict[str, str], host: str) -> str | None:
    """Why a request is not the page's own; None if it is.

    Args:
        headers: Of the request, their names in lower case.
        host: The address that the page listens on.
    """
    name = _host_name(headers.get("host", ""))
    if not _is_ours(name, host):
        return f"this page is not called {name[:100]!r}; if it is to be, start it with --host {name[:100]}"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower():
        return "another site asked: open the page itself"
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return "another site asked: open the page itself"
    return None


def _host_name(text: str) -> str:
    try:
        return (urlsplit(f"//{text}").hostname or "").lower()
    except ValueError:
        return text.lower()


def _is_ours(name: str, host: str) -> bool:
    own = {"localhost", host.strip("[]").lower()}
    local = _address(host) if host != "localhost" else ipaddress.ip_address("127.0.0.1")
    address = _address(name)
    if local is not None and local.is_loopback:
        return name in own or (address is not None and address.is_loopback)
    # Whoever opens the page to a network calls it by an address or by the machine's name; no address can be rebound.
    names = own | {socket.gethostname().lower(), socket.getfqdn().lower(), os.environ.get("SPACE_HOST", "").lower()}
    return bool(name) and (name in names or address is not None)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def fault_of(body: bytes, page: Any) -> str | None:
    """What is wrong with a question that was sent to the page; None if nothing is.

    Args:
        body: What was sent.
        page: The `gradio.Blocks`.
    """
    try:
        question = json.loads(body)
    except (ValueError, RecursionError):
        return "this is no JSON"
    if not isinstance(question, dict):
        return "this is no question"
    data, index = question.get("data"), question.get("fn_index")
    function = page.fns.get(index) if isinstance(index, int) and not isinstance(index, bool) else None
    if function is None or function.fn is None:  # none, or one that runs in the browser
        return "the page has no such button"
    if not isinstance(data, list) or len(data) != len(function.inputs):
        return f"this question has {len(function.inputs)} parts"
    event = question.get("event_data")
    if any(name == "select" for _, name in function.targets) and not (
        isinstance(event, dict) and {"index", "value"} <= set(event)
    ):
        return "nothing is selected"
    for value, component in zip(data, function.inputs, strict=True):
        types = _TYPES.get(component.get_block_name())
        if types is not None and (not isinstance(value, types) or isinstance(value, bool)):
            return (
                f"a value of the type {type(value).__name__} is none that the page's {component.get_block_name()} sends"
            )
        if component.get_block_name() == "dataset" and not 0 <= value < len(component.samples):
            return "the page has no such example"
        for file in value if isinstance(value, list) else [value]:
            if types in (_FILE, _FILES) and file is not None and not _is_upload(file, Path(page.GRADIO_CACHE)):
                return "this is no file that was uploaded here"
    return None


def _is_upload(file: object, uploads: Path) -> bool:
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str) or "\0" in path:
        return False
    try:
        return Path(path).resolve().is_relative_to(uploads.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


async def _body_of(receive: Receive) -> bytes | None:
    """All that is sent with a request; None if it is too much."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > _MOST_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return body


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    text = f"{why}\n".encode("ascii", "replace")
    headers = [(b"content-type", b"text/plain; charset=us-ascii"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
