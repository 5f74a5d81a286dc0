"""Scores of generated replies against the true ones, as the papers on dialogue report them.

    F1          of words as in ConvAI2, see `f1`
    ROUGE-1, -L F-measure and recall by the package rouge-score, words stemmed (use_stemmer=True)
    METEOR      by nltk's `single_meteor_score`: exact words, then stems, then WordNet's synonyms of
                stems, as nltk has it, so that "car" has some and "automobile" (automobil) has none
    distinct-n  different n-grams over n-grams of all replies together (Li et al. 2016)

All in percent. nltk reads WordNet from a folder of its dictionary files; nothing is downloaded.
"""

import functools
import importlib.util
import io
import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

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


class Scores(NamedTuple):
    """Means over replies, in percent but for the last two."""

    f1: float
    rouge_1: float
    rouge_1_recall: float
    rouge_l: float
    rouge_l_recall: float
    meteor: float | None  # None without WordNet
    distinct_1: float
    distinct_2: float
    words: float  # of a reply
    count: int  # of replies


def scores(predictions: Sequence[str], references: Sequence[str], wordnet: str = "") -> Scores:
    """Scores of each prediction against the reference of its place; a blank one scores 0.

    Where WordNet is missing METEOR is None, and what `missing` says is printed.

    Args:
        wordnet: folder of its dictionary files; "" = `WORDNET`.

    Raises:
        ValueError: different numbers of both or none, a blank reference, or packages that are not
            installed.
    """
    require_libraries()
    _check(predictions, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    pairs = list(zip(predictions, references, strict=True))
    rouge = [scorer.score(reference, prediction) for prediction, reference in pairs]
    found = [words(prediction) for prediction in predictions]
    return Scores(
        f1=100 * fmean(f1(*pair) for pair in pairs),
        rouge_1=100 * fmean(one["rouge1"].fmeasure for one in rouge),
        rouge_1_recall=100 * fmean(one["rouge1"].recall for one in rouge),
        rouge_l=100 * fmean(one["rougeL"].fmeasure for one in rouge),
        rouge_l_recall=100 * fmean(one["rougeL"].recall for one in rouge),
        meteor=_meteor(found, [words(reference) for reference in references], wordnet),
        distinct_1=100 * distinct(found, 1),
        distinct_2=100 * distinct(found, 2),
        words=fmean(map(len, found)),
        count=len(pairs),
    )


def words(text: str) -> list[str]:
    """The text's words in lower case: letters and digits, with apostrophes between them."""
    return _WORD.findall(text.lower())


def f1(prediction: str, reference: str) -> float:
    """2 P R / (P + R), in [0, 1], of the words that both have, each as often as both have it.

    As in ConvAI2 (Dinan et al. 2019, ParlAI's F1Metric): lower case, punctuation and the articles
    a, an, the left out.
    """
    predicted, true = (
        _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
        for text in (prediction, reference)
    )
    same = (Counter(predicted) & Counter(true)).total()
    return 2 * same / (len(predicted) + len(true)) if same else 0.0


def distinct(replies: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams over n-grams of all replies (Li et al. 2016), in [0, 1]; 0 without any."""
    grams = [tuple(one[i : i + n]) for one in replies for i in range(len(one) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def missing(wordnet: str = "") -> str:
    """What METEOR lacks and how to get it, in one line; "" if WordNet is in the folder."""
    folder = Path(wordnet or WORDNET)
    lacking = [name for name in _DICTIONARY if not (folder / name).is_file()]
    if not lacking:
        return ""
    return (
        f"wordnet: found no {lacking[0]} in {folder}, so METEOR is left out, accepted: a folder "
        "with WordNet 3.0's dictionary files, or none after apt-get install wordnet-base"
    )


def _meteor(predictions, references, wordnet):
    if message := missing(wordnet):
        print(message)
        return None
    from nltk.translate.meteor_score import single_meteor_score

    reader = _reader(str(Path(wordnet or WORDNET).resolve()))
    pairs = zip(predictions, references, strict=True)
    return 100 * fmean(
        single_meteor_score(reference, prediction, wordnet=reader)
        for prediction, reference in pairs
    )


@functools.cache
def _reader(folder: str) -> Any:
    """nltk's reader of the dictionary in the folder; seconds to load, hence once a process.

    nltk insists on `lexnames` and `index.sense`, which Debian leaves out and METEOR never asks for,
    opens only what is in `nltk.data.path`, and keeps files open.
    """
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Dictionary(WordNetCorpusReader):
        def open(self, file):
            if file == "lexnames":  # number, name and part of speech of lexicographers' files
                return io.StringIO("".join(f"{i:02} lexicographer.{i} 0\n" for i in range(45)))
            return io.TextIOWrapper(io.BytesIO((Path(folder) / file).read_bytes()), "utf-8")

        def map_wn(self, version="wordnet"):
            """None: synsets of another version, for other languages, would be read from nltk's."""

    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions are not available")
        return Dictionary(folder, None)


def require_libraries() -> None:
    """Raise ValueError unless the packages that scores are made with are installed."""
    for name in ("nltk", "rouge_score"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"scores: {name} is not installed, accepted: after "
                "pip install 'inf_former_jax[dialogue]'"
            )


def _check(predictions, references):
    if len(predictions) != len(references):
        raise ValueError(
            f"references: found {len(references)}, accepted: one for each of the "
            f"{len(predictions)} predictions"
        )
    if not predictions:
        raise ValueError("predictions: found none, accepted: one or more")
    for place, reference in enumerate(references):
        if not reference.strip():
            raise ValueError(f"references[{place}]: found {reference!r}, accepted: a text")
