"""A compiled program's kernels, read from its text: how many it starts, and their sizes.

XLA's text of a program lists computations of instructions `%name = SHAPE opcode(%operand, …), …`.
On an accelerator every instruction that computes or copies is a kernel; those of a loop run as
often as it does, of a choice those of the branch that is taken.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

#: Names and addresses, which no device executes; the first halves of what is asynchronous.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all",
        "partition-id", "replica-id", "opt-barrier", "copy-start", "async-start"}  # fmt: skip

#: Bytes of a number; of any other kind 4.
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
          "f64": 8, "s64": 8, "u64": 8}  # fmt: skip

#: cuDNN's flash attention, and how its kernels' names go on.
_ATTENTION = 'custom_call_target="__cudnn$fmha'

#: What reads only as much as it returns.
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def dims(self) -> tuple[int, ...]:
        """Of its result, an array or the first of a tuple."""
        return tuple(map(int, re.findall(r"\d+", re.search(r"\[([\d,]*)\]", self.shape)[1])))

    def listed(self, attribute: str) -> list[str]:
        """The names or numbers of `attribute={a, b}` or `attribute=a`; [] without it."""
        found = re.search(rf"\b{attribute}=(?:{{([^}}]*)}}|([^\s,]+))", self.attributes)
        listed = (found[1] if found[1] is not None else found[2]) if found else ""
        return [of.strip().lstrip("%") for of in listed.split(",") if of.strip()]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is started once, or `times` times."""

    times: float
    moved: int
    """Bytes that it reads and writes; of what it slices or updates in place that part only."""
    operations: Mapping[str, int]
    """Of its matrix products, by `benchmark_timing.KINDS`."""

    def seconds(self, rates: Mapping[str, float]) -> float:
        """The longer of its operations and its bytes, each at its rate a second."""
        products = sum(number / rates[kind] for kind, number in self.operations.items())
        return max(products, self.moved / rates["bytes"])


Computations = dict[str, dict[str, Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """(name → computation, whose last instruction is its result; the name of the entry)."""
    found: Computations = {}
    entry, now = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*{$", line)
        if head:
            now = found[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            now = None
        elif now is not None and (body := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)):
            of = _instruction(body[1], body[2])
            now[of.name] = of
    return found, entry


def _instruction(name, rest):
    rest = re.sub(r"/\*.*?\*/", "", rest)
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, call = rest[:end].strip(), rest[end:].strip()
    opcode, arguments = call.split("(", 1)
    end = _closing("(" + arguments) - 1
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments[:end]))
    return Instruction(name, shape, opcode, operands, arguments[end:])


def _closing(text):
    """Behind the parenthesis that closes the first one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return place + 1
    raise ValueError(f"program: found {text[:80]}, expected as many ) as (")


def size(shape: str) -> int:
    """Bytes of an array `f32[2,3]{1,0}`, or of a tuple's arrays together."""
    return sum(
        _BYTES.get(kind, 4) * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )


def kernels(text: str, taken: Sequence[Sequence[int]] = ()) -> Iterator[Kernel]:
    """All kernels of a program. Loops of unknown length count once.

    Args:
        taken: as of `benchmark_timing.operations`: how often each branch is taken in all, of the
            first choice among as many branches, then of the next one and so on.
    """
    computations, entry = parse(text)
    yield from _kernels(computations, entry, 1.0, list(taken))


def _kernels(computations, name, times, taken):
    for of in computations[name].values():
        if of.opcode == "while":
            length = re.search(r'"known_trip_count":{"n":"(\d+)"}', of.attributes)
            often = times * int(length[1] if length else 1)
            yield from _kernels(computations, of.listed("body")[0], often, taken)
        elif of.opcode == "conditional":
            # The host reads which branch it is.
            yield Kernel(times, size(computations[name][of.operands[0]].shape), {})
            yield from _chosen(computations, of, times, taken)
        elif of.opcode == "call":
            yield from _kernels(computations, of.listed("to_apply")[0], times, taken)
        elif of.opcode not in FREE:
            inner = computations.get((of.listed("calls") or [""])[0])
            moved = _moved(of, computations[name], inner)
            products = [of] if inner is None else inner.values()
            values = computations[name] if inner is None else inner
            yield Kernel(times, moved, _operations(products, values))


def _chosen(computations, of, times, taken):
    branches = of.listed("branch_computations")
    branches = branches or of.listed("true_computation") + of.listed("false_computation")
    if taken and len(taken[0]) == len(branches):
        often = taken.pop(0)
        for branch, number in zip(branches, often, strict=True):
            if number:
                yield from _kernels(computations, branch, times * number / sum(often), [])
    else:
        each = [list(_kernels(computations, branch, times, [])) for branch in branches]
        yield from max(each, key=lambda found: sum(kernel.times for kernel in found))


def _moved(of, values, inner):
    """Bytes read and written."""
    if inner is None:
        read = [size(values[name].shape) for name in of.operands]
        if of.opcode in _SLICES:
            return 2 * size(of.shape)
        if of.opcode == "dynamic-update-slice":
            return 2 * read[1]
        # Behind the result of a library's product is room to work in.
        written = of.shape.split(", s8[")[0] if _library(of) else of.shape
        return sum(read) + size(written)
    parameters = {value.name: value for value in inner.values() if value.opcode == "parameter"}
    users = collections.defaultdict(list)
    for value in inner.values():
        for operand in value.operands:
            users[operand].append(value)
    total, written = 0, list(inner.values())[-1]
    roots = [inner[name] for name in written.operands] if written.opcode == "tuple" else [written]
    updates = {root.operands[0]: root for root in roots if root.opcode == "dynamic-update-slice"}
    for name, parameter in parameters.items():
        if name not in updates:
            sliced = users[name] and all(user.opcode in _SLICES for user in users[name])
            parts = users[name] if sliced else [parameter]
            total += sum(size(part.shape) for part in parts)
    for root in roots:
        part = inner[root.operands[1]] if root.opcode == "dynamic-update-slice" else root
        total += size(part.shape)
    return total


def _library(of):
    return of.opcode == "custom-call" and "cublas" in of.attributes


def _attention(of, values):
    """Scores and results; backwards scores once more, and four gradients."""
    (rows, queries, heads, width), (_, keys, *_) = (values[of.operands[i]].dims() for i in (0, 1))
    products = 5 if re.search(rf"{re.escape(_ATTENTION)}\w*Backward", of.attributes) else 2
    return 2 * products * rows * heads * queries * keys * width


def _operations(products, values):
    found = collections.Counter()
    for of in products:
        if of.opcode == "dot":
            left, contracted = values[of.operands[0]], of.listed("lhs_contracting_dims")
            exact = of.listed("operand_precision") == ["highest", "highest"]
        elif _library(of):
            left = values[of.operands[0]]
            contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', of.attributes)
            contracted = re.findall(r"\d+", contracted[1])
            exact = '"operand_precision":["HIGHEST","HIGHEST"]' in of.attributes
        elif _ATTENTION in of.attributes:
            found["bfloat16"] += _attention(of, values)
            continue
        else:
            continue
        kind = "bfloat16" if left.shape.startswith("bf16") else "float32 default"
        if exact and left.shape.startswith("f32"):
            kind = "float32"
        each = math.prod(left.dims()[int(axis)] for axis in contracted)
        found[kind] += 2 * math.prod(of.dims()) * each
    return dict(found)
