# SPDX-License-Identifier: Apache-2.0
"""Joins requests that wait at the same time into one call of the model.

One thread calls the model. While it does, requests gather, and the next call takes all of them, up to `max_batch`
images: nothing ever waits for company, so an idle server answers at once, and a busy one makes its batches as large as
its queue. A single image that finds the thread idle, and no other request beside it, is answered by the event loop
itself: waking another thread and being woken by it takes about as long as the network does.
When a joined call is refused it is halved until the images at fault are alone, so that they fail only their own
request.
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

from serving.refusal import Refusal
from serving.savedmodel import Arrays, SavedModel, Signature

Answer = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(eq=False)
class _Item:
    model: SavedModel
    signature: Signature
    inputs: Arrays
    rows: int
    future: asyncio.Future[Answer]


class Batcher:
    """The queue before the model.

    Args:
        max_batch: images in one joined call; a single request may hold more, and is then called alone.
        max_queue: images that may wait; a request beyond that is refused with 429, unless nothing waits.
        on_batch: is told the number of images of each call, in the thread that makes it.
    """

    def __init__(self, max_batch: int, max_queue: int, on_batch: Callable[[int], None] = lambda rows: None):
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        # These are changed by the event loop only.
        self._waiting = 0  # images
        self._arrived: list[_Item] = []  # in this turn of the event loop
        self._in_thread = 0  # requests
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait or are being looked at."""
        return self._waiting

    async def run(self, model: SavedModel, signature: Signature, inputs: Arrays, rows: int) -> Answer:
        """Calls a signature, together with what else waits for it.

        Args:
            model: the version; it stays loaded until the answer is there.
            signature: one of its signatures.
            inputs: with `rows` as their first dimension where the signature is batchable.
            rows: number of images.

        Raises:
            Refusal: the model refuses these inputs, or the queue is full.
        """
        if self._waiting and self._waiting + rows > self._max_queue:
            raise Refusal(
                429,
                "The batch scheduling queue to which this task was submitted is full: "
                f"{self._waiting} of {self._max_queue} images wait; try again later",
            )
        item = _Item(model, signature, inputs, rows, self._loop.create_future())
        self._waiting += rows
        try:
            if not self._arrived:
                self._loop.call_soon(self._dispatch)
            self._arrived.append(item)
            return await item.future
        finally:
            self._waiting -= rows

    def stop(self) -> None:
        """Ends the thread after what is queued."""
        self._queue.put(None)
        self._thread.join()

    def _dispatch(self) -> None:
        """Sends what arrived in one turn of the event loop on its way."""
        items, self._arrived = self._arrived, []
        if len(items) == 1 and items[0].rows == 1 and not self._in_thread:
            _settle(items, self._call(items))
            return
        self._in_thread += len(items)
        for item in items:
            self._queue.put(item)

    def _return(self, batch: Sequence[_Item], outcomes: Sequence[Answer | Exception]) -> None:
        self._in_thread -= len(batch)
        _settle(batch, outcomes)

    def _work(self) -> None:
        held: _Item | None = None
        while True:
            first = held if held is not None else self._queue.get()
            if first is None:
                return
            batch, held = self._gather(first)
            self._loop.call_soon_threadsafe(self._return, batch, self._call(batch))
            del first, batch  # a thread that waits must not keep a version loaded

    def _gather(self, first: _Item) -> tuple[list[_Item], _Item | None]:
        """What waits and can be called together with the first; and one that cannot, which is next."""
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

    def _call(self, batch: Sequence[_Item]) -> list[Answer | Exception]:
        """The answer of each item, or what is wrong with it."""
        try:
            self._on_batch(sum(item.rows for item in batch))
            if len(batch) == 1:
                return [batch[0].signature.run(batch[0].inputs)]
            signature = batch[0].signature
            joined = {name: np.concatenate([item.inputs[name] for item in batch]) for name in signature.inputs}
            answer = signature.run(joined)
            starts = np.cumsum([0, *(item.rows for item in batch)])
            return [
                {name: values[start:end] for name, values in answer.items()}
                for start, end in itertools.pairwise(starts)
            ]
        except Exception as error:  # whatever it is, it belongs to these requests and must not end the thread
            if len(batch) == 1:
                return [error]
            middle = len(batch) // 2
            return self._call(batch[:middle]) + self._call(batch[middle:])


def _settle(batch: Sequence[_Item], outcomes: Sequence[Answer | Exception]) -> None:
    for item, outcome in zip(batch, outcomes, strict=True):
        if item.future.done():  # the client went away
            continue
        if isinstance(outcome, Exception):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)
