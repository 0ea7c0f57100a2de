# SPDX-License-Identifier: Apache-2.0
"""Joins requests that wait at the same time into one call of the model.

One thread calls the model. Requests that arrive during a call form the next one, up to `max_batch` images. No request
waits for others: an idle server responds at once, and the batches of a busy one are as large as its queue. A single
image that finds the thread idle and no other request beside it is predicted in the event loop itself, since waking a
thread and returning from it takes about as long as the network.
A joined call that fails is halved until the bad images are alone, so that they fail only their own request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.limits import RequestError
from serving.models import LoadedModel, Signature
from serving.tensors import Arrays

Outputs = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(eq=False)
class _Item:
    """One request in the queue; it refers to its model so that the version stays loaded."""

    model: LoadedModel
    signature: Signature
    inputs: Arrays
    rows: int
    future: asyncio.Future[Outputs]


class Batcher:
    """The queue before the model. All methods run in the event loop that called `start`.

    Args:
        max_batch: images in one joined call; a single request may have more, and is then called alone.
        max_queue: images in the queue; a request beyond it is refused with 429, unless the queue is empty.
        on_batch: called with the number of images of each call, in the thread that makes it.
    """

    def __init__(self, max_batch: int, max_queue: int, on_batch: Callable[[int], None]):
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting_images = 0
        self._new_items: list[_Item] = []  # of this turn of the event loop
        self._items_in_thread = 0
        self._thread = threading.Thread(target=self._run_batches, name="model", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once the queue is empty."""
        self._queue.put(None)
        self._thread.join()

    @property
    def waiting_images(self) -> int:
        """Images in the queue and in the current call."""
        return self._waiting_images

    async def run(self, model: LoadedModel, signature: Signature, inputs: Arrays, rows: int) -> Outputs:
        """Calls a signature, joined with other requests for it.

        Args:
            model: the version; it stays loaded until the call has returned.
            signature: of this version.
            inputs: with `rows` as their first dimension if the signature is batchable.
            rows: number of images.

        Raises:
            RequestError: the model refuses these inputs, or the queue is full.
        """
        if self._waiting_images and self._waiting_images + rows > self._max_queue:
            raise RequestError(
                429, f"the queue is full: {self._waiting_images} of {self._max_queue} images wait; try again later"
            )
        item = _Item(model, signature, inputs, rows, self._loop.create_future())
        self._waiting_images += rows
        try:
            if not self._new_items:
                self._loop.call_soon(self._dispatch)
            self._new_items.append(item)
            return await item.future
        finally:
            self._waiting_images -= rows

    def _dispatch(self) -> None:
        """Predicts a single image at once; passes all else to the thread."""
        items, self._new_items = self._new_items, []
        if len(items) == 1 and items[0].rows == 1 and not self._items_in_thread:
            _set_results(items, self._call(items))
            return
        self._items_in_thread += len(items)
        for item in items:
            self._queue.put(item)

    def _return(self, batch: Sequence[_Item], results: Sequence[Outputs | Exception]) -> None:
        self._items_in_thread -= len(batch)
        _set_results(batch, results)

    def _run_batches(self) -> None:
        following: _Item | None = None
        while True:
            first = following if following is not None else self._queue.get()
            if first is None:
                return
            batch, following = self._next_batch(first)
            self._loop.call_soon_threadsafe(self._return, batch, self._call(batch))
            del first, batch  # while the thread waits, it must not keep a version loaded

    def _next_batch(self, first: _Item) -> tuple[list[_Item], _Item | None]:
        """Returns the items to call together with the first, and the next item if it is not one of them."""
        batch, rows = [first], first.rows
        while first.signature.batchable and rows < self._max_batch:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            if item.signature is not first.signature or rows + item.rows > self._max_batch:
                return batch, item
            batch.append(item)
            rows += item.rows
        return batch, None

    def _call(self, batch: Sequence[_Item]) -> list[Outputs | Exception]:
        """Returns the outputs or the error of each item."""
        try:
            self._on_batch(sum(item.rows for item in batch))
            signature = batch[0].signature
            if len(batch) == 1:
                return [signature.run(batch[0].inputs)]
            outputs = signature.run(
                {name: np.concatenate([item.inputs[name] for item in batch]) for name in signature.inputs}
            )
            starts = np.cumsum([0, *(item.rows for item in batch)])
            return [
                {name: array[start:end] for name, array in outputs.items()} for start, end in itertools.pairwise(starts)
            ]
        except Exception as error:  # of any type: it must fail these requests and not the thread
            if len(batch) == 1:
                return [error]
            middle = len(batch) // 2
            return self._call(batch[:middle]) + self._call(batch[middle:])


def _set_results(batch: Sequence[_Item], results: Sequence[Outputs | Exception]) -> None:
    for item, result in zip(batch, results, strict=True):
        if item.future.done():  # the client closed the connection
            continue
        if isinstance(result, Exception):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)
