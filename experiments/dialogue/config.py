"""Configuration and presets of the experiment."""

import dataclasses
from typing import Annotated

from experiments.dialogue.records import Reading
from experiments.dialogue.stream import Layout
from experiments.language_modeling import config as language_modeling
from experiments.language_modeling.config import TextConfig, grafted
from inf_former_jax.fields import Checked, Count, Natural, NonNegative, Range
from inf_former_jax.models import presets
from inf_former_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which conversations are read, and which of them the model answers."""

    data: str = ""
    """CMU-DoG's release, or a folder with train.jsonl, valid.jsonl and test.jsonl; "" = a small
    sample of made-up conversations."""
    reading: Reading = dataclasses.field(default_factory=Reading)
    keep_shared: bool = False
    """Training conversations whose turns stand in valid or test too stay in train, as they did for
    the published figures; otherwise they are left out."""
    valid_conversations: Natural = 0
    """So many conversations for validation, evenly chosen; 0 = all."""
    test_conversations: Natural = 0
    """So many conversations for the test, evenly chosen; 0 = all."""
    replies: Natural = 200
    """Test utterances that the model answers itself, always the same; 0 = all."""
    reply_tokens: Count = 50
    """At most so many tokens of a reply."""
    temperature: NonNegative = 1.0
    """0 = always the likeliest token."""
    top_p: Annotated[float, Range(0, 1, "(]")] = 0.9
    """Sample from the likeliest tokens whose probabilities sum to this; 1 = all."""
    wordnet: str = ""
    """Folder of WordNet 3.0's files for METEOR; "" = Debian's, of wordnet-base."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueConfig(TextConfig, DataConfig):
    """One run of the dialogue experiment."""

    layout: Layout = dataclasses.field(default_factory=Layout)
    init_from: str = ""
    """Parameters to begin with: a Hugging Face folder of a GPT-2 or a Llama, or a run folder of
    language_modeling. A memory that is not there is grafted on, three control tokens are added to
    the vocabulary."""
    batch_size: Count = 8
    """B, conversations in one update."""


#: The rows: name → (what it is, the model of language_modeling).
ROWS = {
    "no-document": ("GPT-2, no document", "gpt2"),
    "window": ("GPT-2, each segment begins with layout.window tokens of the document", "gpt2"),
    "compressive": ("GPT-2 with a compressed memory", "gpt2-compressive"),
    "infinity": ("GPT-2 with the ∞-former's memory, τ = .5", "gpt2-infinity"),
    "infinity-sticky": ("the same with sticky memories", "gpt2-infinity-sticky"),
    "infinity-lasting": (
        "GPT-2 with power contraction: the whole document lasts",
        "gpt2-infinity-lasting",
    ),
}


def _layout(name: str, segment_len: int) -> Layout:
    """How the row's model gets the document."""
    if name == "no-document":
        return Layout("none")
    return Layout(window=segment_len // 4 if name == "window" else 0)


def small(name: str) -> DialogueConfig:
    """A row in the size that a CPU trains in minutes: a small model of language_modeling."""
    given = language_modeling.PRESETS[ROWS[name][1]][1]
    return DialogueConfig(
        model=dataclasses.replace(given.model, vocab_size=1024),
        optim=dataclasses.replace(given.optim, steps=120, warmup_steps=20),
        layout=_layout(name, given.model.segment_len),
        loop=LoopConfig(log_every=20, eval_every=60, minutes=2.5),
        batch_size=4,
    )


def paper(name: str) -> DialogueConfig:
    """SPEC §7: GPT-2's weights (--init-from), 3 epochs of CMU-DoG in batches of 8."""
    given = language_modeling.PRESETS[f"paper-{ROWS[name][1]}"][1]
    return DialogueConfig(
        model=given.model,
        optim=dataclasses.replace(given.optim, steps=1266, warmup_steps=50),
        layout=_layout(name, given.model.segment_len),
        loop=LoopConfig(eval_every=200),
    )


def tuned() -> DialogueConfig:
    """A published model that was tuned on conversations, whose memory alone is trained."""
    of_novels = grafted(presets.smollm2_infinity(mem_len=256))
    return DialogueConfig(
        model=of_novels.model,
        optim=of_novels.optim,
        layout=Layout(marks="template"),
        loop=of_novels.loop,
        valid_conversations=20,
        test_conversations=50,
    )


PRESETS: dict[str, tuple[str, DialogueConfig]] = (
    {name: (f"{text}; CPU size, from scratch.", small(name)) for name, (text, _) in ROWS.items()}
    | {
        f"paper-{name}": (f"{text}; GPT-2 small, with --init-from.", paper(name))
        for name, (text, _) in ROWS.items()
    }
    | {
        "smollm2-infinity": (
            "SmolLM2-135M (--init-from) by its chat template; its cells alone are trained.",
            tuned(),
        ),
    }
)
