"""The page on a port of this machine."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.files import workplace
from finercam_clip.paths import reason
from finercam_clip.ui.guard import Guard
from finercam_clip.ui.page import build

MAX_UPLOAD = "50mb"
_STYLE = Path(__file__).parent / "page.css"


def check_installed() -> None:
    """Checks that Gradio is installed.

    Raises:
        InputError: It is not.
    """
    if find_spec("gradio") is None:
        raise InputError("the page is an extra: pip install 'finercam_clip[ui]'")


def launch(
    explainer: Explainer, host: str = "127.0.0.1", port: int | None = None, uploads: str | None = None
) -> tuple[Any, str]:
    """Starts the page in the background. Nothing is shared, reported to anyone or fetched from elsewhere.

    Args:
        explainer: The model that the page begins with.
        host: The address that the page listens on.
        port: Its port, or None for the first free one from 7860.
        uploads: The folder for uploads, or None for Gradio's own.

    Returns:
        The page, a `gradio.Blocks` that the caller closes, and its address.

    Raises:
        InputError: Gradio is missing, the host is not this machine, or the port is taken.
    """
    check_installed()
    check_place(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if uploads is not None:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # Gradio has no argument for it
    import gradio
    from starlette.middleware import Middleware

    page = build(explainer, gradio)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=32,
            theme=gradio.themes.Default(
                primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=_STYLE.read_text(encoding="utf-8"),
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            app_kwargs={"middleware": [Middleware(Guard, page=page, host=host)]},
        )
    except OSError as error:
        ports = "none of the ports from 7860 to 7959" if port is None else f"port {port}"
        raise InputError(f"the page cannot have {ports} on {host}: name another with --port or --host") from error
    return page, str(address)


def check_place(host: str, port: int | None) -> None:
    """Checks where the page is to listen. Gradio would try every port of an address of another machine for minutes.

    Raises:
        InputError: It is no port, or no address of this machine.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"--port is a number from 1 to 65535, not {port}")
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise InputError(f"there is no host '{host}': leave --host out, or give an address of this machine") from error
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.bind((address[0], 0, *address[2:]))
        except OSError as error:
            raise InputError(
                f"{host} is no address of this machine ({reason(error)}): leave --host out, or give one"
            ) from error


def serve(explainer: Explainer, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serves the page until it is interrupted. Uploads are deleted after an hour, and at the end. Those of a page
    that was killed are deleted when the next one starts.

    Args:
        explainer: The model that the page begins with.
        host: As in `launch`.
        port: As in `launch`.

    Raises:
        InputError: As in `launch`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain `kill` cleans up as Ctrl+C does
    with workplace(Path(tempfile.gettempdir()), "finercam-ui-") as uploads:
        page, address = launch(explainer, host, port, str(uploads))
        print(f"page      {address} (Ctrl+C stops it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
