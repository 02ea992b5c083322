"""The pictures of a shard, read and prepared by threads while the model is at work on earlier ones."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from finercam_clip.datasets import Item
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.explainer import Explainer
from finercam_clip.images import image_in, read_with_fingerprint
from finercam_clip.options import Options
from finercam_clip.preprocess import Preprocess

READERS = 2  # threads: decoding takes a fraction of what a forward pass takes
_MOST_PIXELS = 256_000_000  # of pictures that wait in memory, before no more are read ahead


@dataclass(frozen=True)
class Picture:
    """An image of the data set that was read.

    Attributes:
        item: Which one.
        image: Its pixels; None if it cannot be read.
        pixels: The model's input [3, H, W], where it was prepared ahead.
        bytes: The size of its file.
        sha256: Of its file, in hexadecimal digits.
        why: Why it cannot be read.
    """

    item: Item
    image: Image.Image | None
    pixels: Tensor | None = None
    bytes: int | None = None
    sha256: str | None = None
    why: str | None = None


def read(item: Item, preprocess: Preprocess | None = None) -> Picture:
    """Reads an image of a data set.

    Args:
        item: Which one.
        preprocess: Prepares it for the model, too.
    """
    try:
        if item.data is None:
            image, source = read_with_fingerprint(item.path)
            size, digest = source.bytes, source.sha256
        else:
            data = item.data()
            image, size, digest = image_in(data, item.name), len(data), hashlib.sha256(data).hexdigest()
        pixels = None if preprocess is None else preprocess(image)[0]
    except UnfinishedError:  # it is not this image's fault
        raise
    except InputError as error:
        return Picture(item, None, why=why_of(item, error))
    return Picture(item, image, pixels, size, digest)


def why_of(item: Item, error: Exception) -> str:
    """Why an image was left out, the same wherever the data set lies."""
    why = str(error).replace(str(item.path), item.name)
    return why.removeprefix(f"{item.name}: ").removeprefix(f"{item.name} ")


def read_ahead(items: Sequence[Item], explainer: Explainer, options: Options, ahead: int) -> Iterator[Picture]:
    """The pictures of items, in their order; the next ones are read meanwhile.

    Args:
        items: The images.
        explainer: The model that they are prepared for.
        options: How they are encoded.
        ahead: How many are read before they are asked for, unless they are so large that memory could run out.
    """
    preprocess = explainer.loaded.preprocess if is_prepared_ahead(explainer, options) else None
    threads = torch.get_num_threads()
    waiting: deque[Future[Picture]] = deque()
    left = iter(items)
    with ThreadPoolExecutor(READERS, "reader", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < ahead and _may_read(waiting):
                    item = next(left, None)
                    more = item is not None
                    if item is not None:
                        waiting.append(pool.submit(read, item, preprocess))
                        torch.set_num_threads(threads)  # a new reader sets its own number, and with it the default
                if waiting:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _may_read(waiting: deque[Future[Picture]]) -> bool:
    """Whether another picture fits into memory. At most `READERS` of unknown size are on their way."""
    known = [future.result().image for future in waiting if future.done()]
    pixels = sum(image.width * image.height for image in known if image is not None)
    return pixels < _MOST_PIXELS and (pixels < _MOST_PIXELS // 8 or len(waiting) - len(known) < READERS)


def is_prepared_ahead(explainer: Explainer, options: Options) -> bool:
    """Whether the model's input can be made before the model is asked: at its own size it is the same for all."""
    return options.image_size is None and explainer.loaded.preprocess.fit is None


def with_inputs(explainer: Explainer, pictures: Sequence[Picture]) -> Explainer:
    """The same model, which takes the inputs that these pictures have instead of preparing them again."""
    ready = {id(picture.image): picture.pixels for picture in pictures if picture.pixels is not None}
    if not ready:
        return explainer
    preprocess = explainer.loaded.preprocess

    def prepared(image: Image.Image) -> Tensor:
        pixels = ready.get(id(image))
        return preprocess(image)[0] if pixels is None else pixels

    return Explainer(replace(explainer.loaded, preprocess=replace(preprocess, transform=prepared)))


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Inside, torch computes with so many threads: with another number sums are rounded differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
