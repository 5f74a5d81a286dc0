"""What a training step receives: W segments of T tokens for each of B documents.

The only thing that `training` knows of `data` is `Batch`. Its fields are NumPy arrays here and
become `jax.Array`s on a device; as a `NamedTuple` it is a pytree without registration.

Dimension letters: B rows, S tokens of a document, T tokens of a segment, W = ceil(S / T) segments.
"""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Shaped

from inf_former_jax.require import require_at_least

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Segments of B documents, in reading order along W (SPEC §4).

    A segment holds tokens of one document only. `weights` are loss weights, 0 for context;
    `resets[b, w]` clears the memory of row b *before* it reads segment w; `valid` is False at
    right padding, and None says that nothing is padded. `types`, if any, are ids of the vocabulary
    whose embeddings are added to the tokens': who says them (SPEC §7).
    """

    tokens: Int32[np.ndarray, "B W T"]
    targets: Int32[np.ndarray, "B W T"]
    weights: Float32[np.ndarray, "B W T"]
    resets: Bool[np.ndarray, "B W"]
    valid: Bool[np.ndarray, "B W T"] | None = None
    types: Int32[np.ndarray, "B W T"] | None = None


def check_tokens(tokens: Integer[np.ndarray, "..."], vocab_size: int, name: str) -> None:
    """Raise ValueError naming `name` and the first place of an id outside 0..vocab_size-1.

    An out-of-range id would otherwise be clamped silently by a gather on the device.
    """
    bad = (tokens < 0) | (tokens >= vocab_size)
    if bad.any():
        place = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        where = ", ".join(map(str, place))
        raise ValueError(
            f"{name}[{where}]: expected a token id in 0..{vocab_size - 1}, found {tokens[place]}"
        )


def segment(
    tokens: Integer[np.ndarray, "B S"],
    targets: Integer[np.ndarray, "B S"],
    weights: Float[np.ndarray, "B S"],
    segment_len: int,
    pad_target: int = 0,
) -> Batch:
    """Cut one document a row from its beginning into W = ceil(S / T) segments (SPEC §4).

    The last segment is right-padded with token 0, target `pad_target`, weight 0 and valid False;
    without padding `valid` is None. Only segment 0 resets. Raises ValueError for shapes that
    differ, an empty document, or segment_len < 1.
    """
    _check_document(tokens, targets, weights, segment_len)
    rows, size = tokens.shape
    padding = -size % segment_len
    resets = np.zeros((rows, (size + padding) // segment_len), bool)
    resets[:, 0] = True
    valid = _cut(np.ones((rows, size)), segment_len, False, bool) if padding else None
    return Batch(
        tokens=_cut(tokens, segment_len, 0, np.int32),
        targets=_cut(targets, segment_len, pad_target, np.int32),
        weights=_cut(weights, segment_len, 0, np.float32),
        resets=resets,
        valid=valid,
    )


def _check_document(tokens: Any, targets: Any, weights: Any, segment_len: int) -> None:
    require_at_least("segment_len", segment_len, 1)
    require_at_least("tokens per document", tokens.shape[1], 1)
    for name, array in (("targets", targets), ("weights", weights)):
        if array.shape != tokens.shape:
            raise ValueError(
                f"{name}: expected the shape of tokens {tokens.shape}, found {array.shape}"
            )


def _cut(
    array: Shaped[np.ndarray, "B S"], segment_len: int, fill: int | bool, dtype: type
) -> Shaped[np.ndarray, "B W T"]:
    rows, size = array.shape
    padded = np.full((rows, size + -size % segment_len), fill, dtype)
    padded[:, :size] = array
    return padded.reshape(rows, -1, segment_len)


def prefetch(iterator: Iterable[Item], size: int = 2) -> Generator[Item, None, None]:
    """Yield the items of `iterator`, made up to `size` (+1 in hand) ahead by a background thread.

    The thread starts at the first `next`. An exception in it is raised in the consumer after the
    items before it; closing the generator ends the thread once its present item is made. Raises
    ValueError for size < 1.
    """
    require_at_least("size", size, 1)
    return _consume(iterator, size)


def _consume(iterator: Iterable[Item], size: int) -> Generator[Item, None, None]:
    items: queue.Queue = queue.Queue(size)
    stop = threading.Event()
    worker = threading.Thread(target=_produce, args=(iterator, items, stop), daemon=True)
    worker.start()
    try:
        while (message := items.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield message[0]
    finally:
        stop.set()
        # A worker that waits in `put` needs one free place to see `stop`.
        while not items.empty():
            items.get_nowait()
        worker.join()


def _produce(iterator: Iterable[Item], items: queue.Queue, stop: threading.Event) -> None:
    end: BaseException | None = None
    try:
        for item in iterator:
            if stop.is_set():
                return
            # The tuple tells an item from the end (None) and from an exception.
            items.put((item,))
    except BaseException as error:
        end = error
    if not stop.is_set():
        items.put(end)
