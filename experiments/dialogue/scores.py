"""Scores of generated replies against the true ones, as the papers on dialogue report them.

    F1          of words as in ConvAI2, see `f1`
    ROUGE-1, -L F-measure and recall by the package rouge-score, words stemmed (use_stemmer=True)
    METEOR      by nltk's `single_meteor_score`: exact words, then stems, then WordNet's synonyms.
                nltk looks up the synonyms of stems: "car" has some, "automobile" (automobil) none
    distinct-n  different n-grams over n-grams, of all replies together (Li et al. 2016)

All are in percent. nltk reads WordNet from a folder of dictionary files; nothing is downloaded.
"""

import dataclasses
import functools
import importlib.util
import io
import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from inf_former_jax.files import read_bytes
from inf_former_jax.require import require

WORDNET = "/usr/share/wordnet"
"""Where Debian's package `wordnet-base` puts WordNet 3.0."""

_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_DICTIONARY = [
    name.format(part)
    for part in ("adj", "adv", "noun", "verb")
    for name in ("data.{}", "index.{}", "{}.exc")
]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over replies. All but the last two are in percent."""

    f1: float
    rouge_1: float
    rouge_1_recall: float
    rouge_l: float
    rouge_l_recall: float
    meteor: float | None  # None without WordNet
    distinct_1: float
    distinct_2: float
    words: float  # words of a reply
    count: int  # replies
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Standard errors of the means over replies, by name; none of a single reply."""


def scores(predictions: Sequence[str], references: Sequence[str], wordnet: str = "") -> Scores:
    """Scores of each prediction against the reference in the same place.

    A blank prediction scores 0. Without WordNet, METEOR is None and the message of `missing` is
    printed.

    Args:
        wordnet: folder of WordNet's dictionary files; "" = `WORDNET`.

    Raises:
        ValueError: different numbers of predictions and references, none at all, a blank
            reference, or packages that are not installed.
    """
    require_libraries()
    _check(predictions, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    pairs = list(zip(predictions, references, strict=True))
    rouge = [scorer.score(reference, prediction) for prediction, reference in pairs]
    found = [words(prediction) for prediction in predictions]
    of_each = {
        "f1": [f1(*pair) for pair in pairs],
        "rouge_1": [one["rouge1"].fmeasure for one in rouge],
        "rouge_1_recall": [one["rouge1"].recall for one in rouge],
        "rouge_l": [one["rougeL"].fmeasure for one in rouge],
        "rouge_l_recall": [one["rougeL"].recall for one in rouge],
        "meteor": _meteor(found, [words(reference) for reference in references], wordnet),
    }
    known = {name: values for name, values in of_each.items() if values is not None}
    spreads = {name: stdev(values) for name, values in known.items() if len(pairs) > 1}
    means: dict[str, Any] = dict.fromkeys(of_each)
    means |= {name: 100 * fmean(values) for name, values in known.items()}
    return Scores(
        **means,
        distinct_1=100 * distinct(found, 1),
        distinct_2=100 * distinct(found, 2),
        words=fmean(map(len, found)),
        count=len(pairs),
        errors={name: 100 * spread / len(pairs) ** 0.5 for name, spread in spreads.items()},
    )


def words(text: str) -> list[str]:
    """The text's words in lower case: letters and digits, with apostrophes between them."""
    return _WORD.findall(text.lower())


def f1(prediction: str, reference: str) -> float:
    """2 P R / (P + R) in [0, 1], P and R the shares of words that both texts have.

    A word counts as often as both texts have it. As in ConvAI2 (Dinan et al. 2019, ParlAI's
    F1Metric), words are in lower case, without punctuation and without the articles a, an, the.
    """
    predicted, true = (
        _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
        for text in (prediction, reference)
    )
    same = (Counter(predicted) & Counter(true)).total()
    return 2 * same / (len(predicted) + len(true)) if same else 0.0


def distinct(replies: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams over n-grams of all replies (Li et al. 2016) in [0, 1]; 0 without any."""
    grams = [tuple(one[i : i + n]) for one in replies for i in range(len(one) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def missing(wordnet: str = "") -> str:
    """What METEOR lacks and how to get it, in one line; "" if WordNet is there."""
    folder = Path(wordnet or WORDNET)
    lacking = [name for name in _DICTIONARY if not (folder / name).is_file()]
    if not lacking:
        return ""
    return (
        f"wordnet: found no {lacking[0]} in {folder}, so METEOR is left out, accepted: a folder "
        "with WordNet 3.0's dictionary files, or none after apt-get install wordnet-base"
    )


def _meteor(
    predictions: list[list[str]], references: list[list[str]], wordnet: str
) -> list[float] | None:
    """METEOR of each prediction in [0, 1]; None without WordNet."""
    if message := missing(wordnet):
        print(message)
        return None
    from nltk.translate.meteor_score import single_meteor_score

    reader = _reader(str(Path(wordnet or WORDNET).resolve()))
    pairs = zip(predictions, references, strict=True)
    return [
        single_meteor_score(reference, prediction, wordnet=reader)
        for prediction, reference in pairs
    ]


@functools.cache
def _reader(folder: str) -> Any:
    """nltk's reader of the dictionary in the folder. It takes seconds to load, so it is cached.

    nltk insists on the files `lexnames` and `index.sense`, which Debian leaves out and METEOR does
    not need. It opens only files below `nltk.data.path`, and keeps them open.
    """
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Dictionary(WordNetCorpusReader):
        def open(self, file):
            if file == "lexnames":  # number, name and part of speech of lexicographers' files
                return io.StringIO("".join(f"{i:02} lexicographer.{i} 0\n" for i in range(45)))
            return io.TextIOWrapper(io.BytesIO(read_bytes(Path(folder) / file)), "utf-8")

        def map_wn(self, version="wordnet"):
            """Do nothing: the mapping to other versions of WordNet is for other languages."""

    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions are not available")
        return Dictionary(folder, None)


def require_libraries() -> None:
    """Raise ValueError unless the packages that compute the scores are installed."""
    for name in ("nltk", "rouge_score"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"scores: {name} is not installed, accepted: after "
                "pip install 'inf_former_jax[dialogue]'"
            )


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    accepted = f"one for each of the {len(predictions)} predictions"
    require(len(predictions) == len(references), "references", len(references), accepted)
    require(len(predictions) > 0, "predictions", "none", "one or more")
    for place, reference in enumerate(references):
        require(bool(reference.strip()), f"references[{place}]", repr(reference), "a text")
