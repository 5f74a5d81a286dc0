"""Configuration and presets of the experiment."""

import dataclasses

from experiments.dialogue.conversations import Reading
from experiments.dialogue.stream import Layout
from experiments.language_modeling import config as language_modeling
from experiments.run.config import RunConfig
from inf_former_jax.training.loop import LoopConfig
from inf_former_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueConfig(RunConfig):
    """One run of the dialogue experiment."""

    layout: Layout = dataclasses.field(default_factory=Layout)
    reading: Reading = dataclasses.field(default_factory=Reading)
    data: str = ""
    """CMU-DoG's release, or a folder with train.jsonl, valid.jsonl and test.jsonl; "" = a small
    sample of made-up conversations."""
    tokenizer: str = ""
    """"bytes", a tokenizer.json, or a folder with one or with vocab.json and merges.txt; "" = the
    one of --init-from, or a BPE trained on the conversations."""
    init_from: str = ""
    """Parameters to begin with: a folder of GPT-2's files, or a run folder of language_modeling.
    A memory that is not there is grafted on, three control tokens are added to the vocabulary."""
    batch_size: int = 8
    """B, conversations in one update."""
    valid_conversations: int = 0
    """So many for validation, evenly chosen; 0 = all."""
    test_conversations: int = 0
    """So many for the test, evenly chosen; 0 = all."""
    replies: int = 200
    """Test utterances that the model answers itself, always the same; 0 = all."""
    reply_tokens: int = 50
    """At most so many tokens of a reply."""
    temperature: float = 1.0
    """0 = always the likeliest token."""
    top_p: float = 0.9
    """Sample from the likeliest tokens whose probabilities sum to this; 1 = all."""
    wordnet: str = ""
    """Folder of WordNet 3.0's files for METEOR; "" = Debian's, of wordnet-base."""
    cache: str = "runs/tokens"
    """Folder for trained tokenisers."""


#: The rows: name → (what it is, model of language_modeling, its layout).
ROWS = {
    "no-document": ("GPT-2, no document", "gpt2", Layout("none")),
    "window": (
        "GPT-2, each segment begins with layout.window tokens of the document",
        "gpt2",
        None,
    ),
    "compressive": ("GPT-2 with a compressed memory", "gpt2-compressive", Layout()),
    "infinity": ("GPT-2 with the ∞-former's memory, τ = .5", "gpt2-infinity", Layout()),
    "infinity-sticky": ("the same with sticky memories", "gpt2-infinity-sticky", Layout()),
    "infinity-lasting": (
        "GPT-2 with power contraction: the whole document lasts",
        "gpt2-infinity-lasting",
        Layout(),
    ),
}


def _layout(given: Layout | None, segment_len: int) -> Layout:
    return Layout(window=segment_len // 4) if given is None else given


def small(name: str) -> DialogueConfig:
    """A row in the size that a CPU trains in minutes, of language_modeling's small models."""
    _, kind, layout = ROWS[name]
    model = language_modeling.PRESETS[kind][1].model
    return DialogueConfig(
        model=dataclasses.replace(model, vocab_size=1024),
        optim=OptimConfig(
            learning_rate=2e-3, steps=120, warmup_steps=20, clip=1.0, weight_decay=0.01
        ),
        layout=_layout(layout, model.segment_len),
        loop=LoopConfig(log_every=20, eval_every=60, minutes=2.5),
        batch_size=4,
    )


def paper(name: str) -> DialogueConfig:
    """SPEC §7: GPT-2's weights (--init-from), 3 epochs of CMU-DoG in batches of 8."""
    _, kind, layout = ROWS[name]
    model = language_modeling.PRESETS[f"paper-{kind}"][1].model
    return DialogueConfig(
        model=model,
        optim=OptimConfig(
            learning_rate=5e-5, memory_learning_rate=2.5e-4, steps=1266, warmup_steps=50, clip=1.0,
            weight_decay=0.01, schedule="linear",
        ),
        layout=_layout(layout, model.segment_len),
        loop=LoopConfig(eval_every=200),
    )  # fmt: skip


PRESETS: dict[str, tuple[str, DialogueConfig]] = {
    name: (f"{text}; CPU size, from scratch.", small(name)) for name, (text, *_) in ROWS.items()
} | {
    f"paper-{name}": (f"{text}; GPT-2 small, with --init-from.", paper(name))
    for name, (text, *_) in ROWS.items()
}
