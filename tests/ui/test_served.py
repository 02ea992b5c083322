"""The page as it is served: to this machine only, told to nobody, with uploads that are limited and deleted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
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
    index = next(index for index, function in served.fns.items() if len(function.inputs) == 8)
    completed = []
    for path in (uploaded, secret):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        data = [None, file, None, TARGET, CONTRAST, "aviary", "hirescam", 0.6]
        body = json.dumps({"data": data, "fn_index": index, "session_hash": path.stem}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/queue/join", body, headers)).close()
        with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={path.stem}") as events:
            messages = [json.loads(line.removeprefix(b"data:")) for line in events if line.startswith(b"data:")]
        completed += [message for message in messages if message["msg"] == "process_completed"]
    assert [message["success"] for message in completed] == [True, False]
    assert "difference" in json.dumps(completed[0])
    assert "difference" not in json.dumps(completed[1])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_was_uploaded_is_gone_when_the_command_ends(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the page is the extra `ui`")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "finercam_clip", "ui"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("page      http://127.0.0.1:")
        (folder,) = tmp_path.glob("finercam-ui-*")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert not folder.exists()


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
