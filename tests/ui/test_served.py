"""The page as it is served: to this machine only, told to nobody, with uploads that are limited and deleted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import finercam_clip.ui.models
import finercam_clip.ui.serve
from finercam_clip import cli
from finercam_clip.aviary import demo, drawing
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.ui.ask import NULLS
from finercam_clip.ui.serve import launch

from .question import CONTRAST, TARGET


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finercam_clip.ui.serve, "find_spec", lambda name: None)
    assert cli.main(["ui"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "finercam-clip: error: the page is an extra: pip install 'finercam_clip[ui]'\n"


def test_the_page_is_local_silent_and_shared_with_nobody(page: tuple[Any, str]) -> None:
    served, address = page
    assert address.startswith("http://127.0.0.1:")
    assert not served.share
    assert not served.analytics_enabled
    assert served.delete_cache == (600, 3600)
    with urllib.request.urlopen(address) as answer:
        text = answer.read().decode()
    assert "fonts.googleapis" not in text
    assert ".fc-peak {" in text  # its style is inside


def test_a_taken_port_is_one_line(page: tuple[Any, str], bundled: Explainer) -> None:
    port = int(page[1].rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(InputError, match=f"cannot have port {port} on 127.0.0.1"):
        launch(bundled, port=port)


@pytest.mark.parametrize(
    ("place", "fragment"),
    [
        (["--port", "99999"], "from 1 to 65535"),
        (["--port", "0"], "from 1 to 65535"),
        (["--host", "no host"], "'no host'"),
    ],
)
def test_a_wrong_place_is_one_line(place: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the page is the extra `ui`")
    before = os.environ.get("GRADIO_TEMP_DIR")
    assert cli.main(["ui", *place]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert fragment in captured.err
    assert os.environ.get("GRADIO_TEMP_DIR") == before


def test_uploads_are_limited(page: tuple[Any, str]) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(51 << 20)
    request = urllib.request.Request(
        f"{page[1]}gradio_api/upload",
        body + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as refused:
        urllib.request.urlopen(request)
    if isinstance(refused.value, urllib.error.HTTPError):
        assert refused.value.code == 413


def test_only_uploads_are_read(page: tuple[Any, str], tmp_path: Path) -> None:
    """Whoever reaches the page must not read this machine's other pictures through it."""
    served, address = page
    secret = tmp_path / "secret.png"
    Image.fromarray(drawing.draw(demo.BIRD, 7, size=64).image).save(secret)
    uploaded = Path(os.environ["GRADIO_TEMP_DIR"]) / "bird" / "bird.png"
    uploaded.parent.mkdir()
    shutil.copy(secret, uploaded)
    served.upload_file_set.add(str(uploaded))
    index = next(index for index, function in served.fns.items() if len(function.inputs) == 9)

    def ask(path: Path, **more: Any) -> list[dict[str, Any]]:
        data = [None, {"path": str(path), **more}, None, TARGET, CONTRAST, "aviary", "hirescam", 0.6, NULLS[0]]
        return question(address, data, index)

    meta = {"meta": {"_type": "gradio.FileData"}}
    (completed,) = ask(uploaded, **meta)
    assert completed["success"]
    assert "difference" in json.dumps(completed)
    link = uploaded.with_name("link.png")
    link.symlink_to(secret)
    for more in (meta, {}):  # Gradio itself checks files with `meta` only
        for path in (secret, link, uploaded / ".." / ".." / ".." / secret.name):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(path, **more)
            assert refused.value.code == 422


def question(address: str, data: object, index: object, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Asks the page as its own script does. Returns the messages about what is done."""
    session = os.urandom(8).hex()
    body = json.dumps({"data": data, "fn_index": index, "session_hash": session}).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/queue/join", body, headers)).close()
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}") as events:
        messages = [json.loads(line.removeprefix(b"data:")) for line in events if line.startswith(b"data:")]
    return [message for message in messages if message["msg"] == "process_completed"]


WRONG_VALUES: list[object] = [5, True, "text", ["text"], {"path": 5}, {"path": {"path": "x"}}, {}, [], [[]]]


@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
def test_values_of_any_type_give_a_line_and_no_traceback(
    page: tuple[Any, str], capfd: pytest.CaptureFixture[str], value: object
) -> None:
    served, address = page
    for index, function in served.fns.items():
        for place in range(len(function.inputs)):
            data: list[Any] = [None] * len(function.inputs)
            data[place] = value
            with contextlib.suppress(urllib.error.HTTPError):  # refused, which is one line
                question(address, data, index)
    with contextlib.suppress(urllib.error.HTTPError):
        question(address, value, 1)
    with contextlib.suppress(urllib.error.HTTPError):
        question(address, [], value)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err


FOREIGN: list[dict[str, str]] = [
    {"Host": "attacker.example"},  # DNS rebinding
    {"Host": "192.0.2.7:7860"},
    {"Host": ""},
    {"Origin": "http://attacker.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},  # another program of this machine
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_other_site_can_ask(page: tuple[Any, str], headers: dict[str, str]) -> None:
    _, address = page
    for path in ("", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address + path, None, headers))
        assert refused.value.code == 403


def test_the_page_itself_may_ask_by_each_of_its_names(page: tuple[Any, str]) -> None:
    _, address = page
    port = address.rstrip("/").rsplit(":", 1)[1]
    for name in ("127.0.0.1", "localhost", "[::1]"):
        headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}", "Sec-Fetch-Site": "same-origin"}
        assert urllib.request.urlopen(urllib.request.Request(address, None, headers)).status == 200


@pytest.mark.parametrize("name", ["ViT-B-32 {}", "local-dir:{}", "hf:{}", "aviary {}"])
def test_a_models_name_does_not_tell_what_lies_on_the_machine(name: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("secret")
    messages = []
    for file in ("there", "gone!"):
        with pytest.raises(InputError) as refused:
            finercam_clip.ui.models.model_named(name.format(tmp_path / file))
        messages.append(str(refused.value).replace(file, "x"))
    assert messages[0] == messages[1]


def test_an_address_of_another_machine_is_refused_at_once(bundled: Explainer) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match="no address of this machine"):
        launch(bundled, host="192.0.2.7")
    assert time.monotonic() - began < 5


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_what_was_uploaded_is_gone_when_the_command_ends_or_starts_again(tmp_path: Path, how: str) -> None:
    pytest.importorskip("gradio", reason="the page is the extra `ui`")
    folder = _folder_of_a_page_that_ends(tmp_path, how)
    if how == "SIGKILL":
        assert (folder / "upload.png").exists()
        other = _folder_of_a_page_that_ends(tmp_path, "SIGTERM")
        assert not other.exists()
    assert not folder.exists()


def _folder_of_a_page_that_ends(tmp_path: Path, how: str) -> Path:
    """Starts the page with its uploads somewhere in a folder, and ends it by a signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "finercam_clip", "ui", "--model", "aviary"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("page      http://127.0.0.1:")
        (folder,) = tmp_path.glob("finercam-ui-*")
        (folder / "upload.png").write_bytes(b"a visitor's photograph")
        process.send_signal(getattr(signal, how))
        assert process.wait(30) == (130 if how == "SIGTERM" else -signal.SIGKILL)
    finally:
        process.kill()
    return folder


def test_the_command_opens_with_the_named_model_or_the_first_one(
    bundled: Explainer, photos: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the page is the extra `ui`")
    served: list[Explainer] = []
    monkeypatch.setattr(finercam_clip.ui.serve, "serve", lambda explainer, *_: served.append(explainer))
    monkeypatch.setattr(finercam_clip.ui.models, "first_model", lambda **_: photos)
    monkeypatch.setattr(cli.tables, "load_named", lambda arguments: bundled)
    assert cli.main(["ui"]) == cli.main(["ui", "--model", "aviary"]) == 0
    assert served == [photos, bundled]
