"""Progress: for a person at a terminal only, and nothing of it stays there."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from finercam_clip import progress


class Screen(io.StringIO):
    """A stream that may be a terminal, and the line that a person sees on it after each thing that is written."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.line = ""
        self.shown: list[str] = []

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        rest, column = text, len(self.line)
        while rest:
            if rest.startswith("\033[K"):  # erases from here to the end of the line
                self.line, rest = self.line[:column], rest[3:]
            elif rest[0] == "\r":
                column, rest = 0, rest[1:]
            else:
                assert rest[0].isprintable()  # one line is one line: no line feed, no other control code
                self.line, rest = self.line[:column] + rest[0] + self.line[column + 1 :], rest[1:]
                column += 1
        if self.line.strip():
            self.shown.append(self.line.strip())
        return super().write(text)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Screen]:
    """Puts a screen in the place of stderr."""
    monkeypatch.delenv(progress.SWITCH, raising=False)

    def make(*, terminal: bool = True) -> Screen:
        stream = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


def through_a_bar() -> None:
    with progress.bar(2) as bar:
        bar.update()


def item_by_item() -> None:
    assert list(progress.each(range(3), "reading", unit="photo")) == [0, 1, 2]


def while_waiting() -> None:
    with progress.waiting("loading ViT-B-16"):
        pass


EVERYTHING = pytest.mark.parametrize("work", [through_a_bar, item_by_item, while_waiting])


@EVERYTHING
def test_a_stream_that_is_no_terminal_gets_nothing(screen: Callable[..., Screen], work: Callable[[], None]) -> None:
    stream = screen(terminal=False)
    work()
    assert stream.getvalue() == ""


@EVERYTHING
def test_switched_off_a_terminal_gets_nothing(
    screen: Callable[..., Screen], work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = screen()
    monkeypatch.setenv(progress.SWITCH, "1")
    work()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("work", [item_by_item, while_waiting])
def test_silence_ends_where_it_was_asked_for(screen: Callable[..., Screen], work: Callable[[], None]) -> None:
    stream = screen()
    with progress.silenced():
        work()
    assert stream.getvalue() == ""
    assert progress.SWITCH not in os.environ
    work()
    assert stream.getvalue() != ""


def test_a_bar_at_a_terminal_shows_what_is_done_and_goes(screen: Callable[..., Screen]) -> None:
    stream = screen()
    item_by_item()
    assert stream.shown[0].startswith("reading:")
    assert "0/3" in stream.shown[0]
    assert "photo" in stream.shown[0]
    assert stream.line.strip() == ""


def test_a_bar_counts_the_items_that_are_done(screen: Callable[..., Screen], monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        done = 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self) -> None:
            self.done += 1

    bar, totals = Bar(), []
    monkeypatch.setattr(progress, "bar", lambda total, **_: totals.append(total) or bar)
    done = [bar.done for _ in progress.each("abcd")]
    assert totals == [4]
    assert done == [0, 1, 2, 3]  # an item counts when its work is over, not when it begins
    assert bar.done == 4


@pytest.mark.parametrize("terminal", [True, False])
def test_items_come_one_by_one_as_they_are_asked_for(screen: Callable[..., Screen], terminal: bool) -> None:
    screen(terminal=terminal)
    items = progress.each("abc")
    assert isinstance(items, Iterator)
    assert next(items) == "a"
    assert list(items) == ["b", "c"]


def test_a_bar_that_is_left_early_goes(screen: Callable[..., Screen]) -> None:
    stream = screen()
    items = progress.each(range(1000), "reading")
    next(items)
    assert stream.line.startswith("reading:")
    items.close()  # type: ignore[attr-defined]
    assert stream.line.strip() == ""


@pytest.mark.parametrize("error", [None, ValueError("cannot be loaded"), KeyboardInterrupt()])
def test_waiting_at_a_terminal_shows_a_line_and_takes_it_back(
    screen: Callable[..., Screen], error: BaseException | None
) -> None:
    stream = screen()
    with suppress(ValueError, KeyboardInterrupt), progress.waiting("loading ViT-B-16"):
        assert stream.line == "loading ViT-B-16 …"
        if error is not None:
            raise error
    assert stream.line == ""


def test_an_error_while_waiting_comes_out(screen: Callable[..., Screen]) -> None:
    screen()
    with pytest.raises(ValueError, match="cannot be loaded"), progress.waiting("loading ViT-B-16"):
        raise ValueError("cannot be loaded")
