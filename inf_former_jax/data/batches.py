"""What a training step receives: W segments of T tokens for each of B documents.

The only thing that `training` knows of `data` is `Batch`. Its fields are NumPy arrays here and
become `jax.Array`s on a device; as a `NamedTuple` it is a pytree without registration.

Dimension letters: B rows, S tokens of a document, T tokens of a segment, W = ceil(S / T) segments.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar, cast

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Shaped

from inf_former_jax.require import require, require_at_least

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Segments of B documents, in reading order along W (SPEC §4).

    A segment holds tokens of one document only. `weights` are loss weights, 0 for context;
    `resets[b, w]` clears the memory of row b *before* it reads segment w; `valid` is False at
    right padding, and None says that nothing is padded. `types`, if any, are further ids of the
    vocabulary, one for each token, whose embeddings are added to the tokens': who speaks (SPEC §7).
    `lower`, if any, is what `Decoder.lower` makes of the tokens: those layers are not run again.
    """

    tokens: Int32[np.ndarray, "B W T"]
    targets: Int32[np.ndarray, "B W T"]
    weights: Float32[np.ndarray, "B W T"]
    resets: Bool[np.ndarray, "B W"]
    valid: Bool[np.ndarray, "B W T"] | None = None
    types: Int32[np.ndarray, "B W T"] | None = None
    lower: Float[np.ndarray, "B W T E"] | None = None


def check_tokens(tokens: Integer[np.ndarray, "..."], vocab_size: int, name: str) -> None:
    """Raise ValueError naming `name` and the first place of an id outside 0..vocab_size-1.

    An out-of-range id would otherwise be clamped silently by a gather on the device.
    """
    wrong = (tokens < 0) | (tokens >= vocab_size)
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        where = ", ".join(map(str, place))
        accepted = f"a token id in 0..{vocab_size - 1}"
        require(False, f"{name}[{where}]", tokens[place], accepted)


def segment(
    tokens: Integer[np.ndarray, "B S"],
    targets: Integer[np.ndarray, "B S"],
    weights: Float[np.ndarray, "B S"],
    segment_len: int,
    pad_target: int = 0,
) -> Batch:
    """Cut one document a row from its beginning into W = ceil(S / T) segments (SPEC §4).

    The last segment is right-padded with token 0, target `pad_target`, weight 0 and valid False;
    without padding `valid` is None. Only segment 0 resets.

    Raises:
        ValueError: shapes that differ, an empty document, or segment_len < 1.
    """
    require_at_least("segment_len", segment_len, 1)
    require_at_least("tokens per document", tokens.shape[1], 1)
    for name, array in (("targets", targets), ("weights", weights)):
        accepted = f"the shape of tokens {tokens.shape}"
        require(array.shape == tokens.shape, name, array.shape, accepted)
    rows, size = tokens.shape
    padding = -size % segment_len

    def cut(array: Shaped[np.ndarray, "B S"], fill: int, dtype: type) -> np.ndarray:
        padded = np.pad(array.astype(dtype), ((0, 0), (0, padding)), constant_values=fill)
        return padded.reshape(rows, -1, segment_len)

    segments = cut(tokens, 0, np.int32)
    resets = np.zeros(segments.shape[:2], bool)
    resets[:, 0] = True
    return Batch(
        tokens=segments,
        targets=cut(targets, pad_target, np.int32),
        weights=cut(weights, 0, np.float32),
        resets=resets,
        valid=cut(np.ones((rows, size), bool), False, bool) if padding else None,
    )


def prefetch(iterator: Iterable[Item], size: int = 2) -> Generator[Item, None, None]:
    """Yield the items of `iterator`, which a background thread makes up to `size` + 1 ahead.

    The thread starts at the first `next`. An exception in it is raised in the consumer after the
    items before it; closing the generator ends the thread once its present item is made.

    Raises:
        ValueError: size < 1.
    """
    require_at_least("size", size, 1)
    return _prefetched(iter(iterator), size)


def _prefetched(iterator: Iterator[Item], size: int) -> Generator[Item, None, None]:
    worker, end = ThreadPoolExecutor(max_workers=1), object()
    ahead = deque(worker.submit(next, iterator, end) for _ in range(size + 1))
    try:
        while (item := ahead.popleft().result()) is not end:
            ahead.append(worker.submit(next, iterator, end))
            yield cast(Item, item)
    finally:
        worker.shutdown(cancel_futures=True)
