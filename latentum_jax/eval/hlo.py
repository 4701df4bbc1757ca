"""What a compiled program says of itself: its loops, what they read and copy, its kernels.

Read from the text of the optimised program (HLO), so that it needs no device.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2, "f16": 2, "s64": 8}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s*(ROOT )?%([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(?:ENTRY )?%([\w.\-]+) .*\{$")
RENAMES = {"bitcast", "reshape", "transpose", "convert", "copy", "optimization-barrier"}
PICKS = {"dynamic-slice", "slice", "gather"}
COLLECTIVES = {"all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"}
COPIES = {"copy", "copy-start", "dynamic-slice", "slice"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: %name = shape opcode(operands), attributes."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def nbytes(self) -> int:
        """Of the result; of a tuple, of all its parts."""
        return sum(_nbytes(kind, size) for kind, size in ARRAY.findall(self.shape))

    def called(self, by: str) -> str | None:
        """The computation that an attribute (`calls`, `body`, `to_apply`) names."""
        found = re.search(rf"\b{by}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name."""

    computations: dict[str, Computation]

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Reads `compiled.as_text()`."""
        computations: dict[str, Computation] = {}
        current: Computation = {}
        for line in text.splitlines():
            opened = COMPUTATION.match(line)
            if opened:
                current = computations.setdefault(opened[1], {})
                continue
            found = INSTRUCTION.match(line)
            if found:
                made = _instruction(found[2], found[3], bool(found[1]))
                current[made.name] = made
        return cls(computations)

    def loops(self) -> list[Instruction]:
        """Every while loop."""
        return [
            made
            for computation in self.computations.values()
            for made in computation.values()
            if made.opcode == "while"
        ]

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop goes round: as the compiler notes it, or by what its counter must stay
        below; None where it is neither."""
        noted = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
        if noted:
            return int(noted[1])
        condition = self.computations[loop.called("condition")].values()
        test = next(x for x in condition if x.root)
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        limit = next(x for x in condition if x.name == test.operands[1])
        found = re.match(r"\((\d+)\)", limit.attributes)
        return int(found[1]) if found and limit.opcode == "constant" else None

    def loop(self, trips: int) -> Instruction:
        """The loop that goes round so often. Raises ValueError where there is not one such."""
        known = [self.trips(loop) for loop in self.loops()]
        if known.count(trips) != 1:
            raise ValueError(f"loops go round {known} times, expected one of {trips}")
        return self.loops()[known.index(trips)]

    def within(self, name: str) -> Iterator[Instruction]:
        """The instructions of a computation and of the loops and calls in it, fusions whole."""
        for made in self.computations[name].values():
            yield made
            for by in ("body", "to_apply"):
                inner = made.called(by) if made.opcode in ("while", "call") else None
                if inner:
                    yield from self.within(inner)

    def custom_calls(self) -> dict[str, int]:
        """How many kernels there are of each target, Triton fusions by their own name."""
        counts: dict[str, int] = {}
        for computation in self.computations.values():
            for made in computation.values():
                kernel = _kernel(made)
                if kernel:
                    counts[kernel] = counts.get(kernel, 0) + 1
        return counts

    def collectives(self) -> dict[str, dict[str, int]]:
        """What devices exchange in one run, by name: {"count", "bytes", "largest_bytes"} of what
        each of them receives, in loops as often as they go round."""
        found: dict[str, dict[str, int]] = {}
        for made, times in self._reached(list(self.computations)[-1], 1):
            name = made.opcode.removesuffix("-done")
            if name not in COLLECTIVES:
                continue
            own = found.setdefault(name, {"count": 0, "bytes": 0, "largest_bytes": 0})
            own["count"] += times
            own["bytes"] += times * made.nbytes
            own["largest_bytes"] = max(own["largest_bytes"], made.nbytes)
        return found

    def _reached(self, name: str, times: int) -> Iterator[tuple[Instruction, int]]:
        """The instructions of a computation and of all that it calls, and how often they run."""
        for made in self.computations[name].values():
            yield made, times
            rounds = (self.trips(made) or 1) if made.opcode == "while" else 1
            for by in ("body", "calls", "to_apply"):
                inner = made.called(by)
                if inner in self.computations:
                    yield from self._reached(inner, times * rounds)

    def copies(self, loop: Instruction, nbytes: int) -> list[str]:
        """What a round of the loop makes by copying alone, of at least so many bytes: "name shape".

        Slices that are taken out count, and so do fusions that do nothing else; what a TPU fetches
        into its fast memory, S(1), ahead of its use is read only.
        """
        return [
            f"{made.name} {made.shape}"
            for made in self.within(loop.called("body"))
            if made.nbytes >= nbytes and self._opcode(made) in COPIES and "S(1)" not in made.shape
        ]

    def _opcode(self, made: Instruction) -> str:
        """What an instruction does; of a fusion, what it does in the end."""
        if made.opcode != "fusion":
            return made.opcode
        inner = self.computations[made.called("calls")]
        root = next(x for x in inner.values() if x.root)
        while root.opcode in RENAMES or (root.opcode == "fusion" and self._opcode(root) == "copy"):
            if root.operands[0] not in inner:
                break
            root = inner[root.operands[0]]
        return "copy" if root.opcode == "parameter" else self._opcode(root)

    def invariant_bytes(self, loop: Instruction) -> int:
        """Bytes a round reads of what no round changes: the weights.

        Inner loops count as often as they go round; of what is only sliced or gathered from, what
        is picked counts.
        """
        return self._invariant_bytes(loop.called("body"), lambda index: True)

    def _invariant_bytes(self, body: str, outside: Callable[[int], bool]) -> int:
        made = self.computations[body]
        root = next(x for x in made.values() if x.root)
        total = 0
        for x in made.values():
            if x.opcode != "get-tuple-element" or made[x.operands[0]].opcode != "parameter":
                continue
            index = _index(x)
            kept = made[root.operands[index]]
            if self._source(made, kept) == x.name and outside(index):
                total += self._read(made, x.name)
        for x in made.values():
            if x.opcode == "while":
                carried = made[x.operands[0]]
                fixed = lambda i, c=carried: self._is_fixed(made, root, c.operands[i])  # noqa: E731
                total += (self.trips(x) or 1) * self._invariant_bytes(x.called("body"), fixed)
        return total

    def _is_fixed(self, made: Computation, root: Instruction, name: str) -> bool:
        """Whether a value of a loop's body is the loop's own and stays as it is."""
        origin = made[self._source(made, made[name])]
        if origin.opcode != "get-tuple-element" or made[origin.operands[0]].opcode != "parameter":
            return False
        return self._source(made, made[root.operands[_index(origin)]]) == origin.name

    def _source(self, made: Computation, x: Instruction) -> str:
        """What a value is behind its copies and renamings, and behind loops that leave it alone."""
        while True:
            if x.opcode in ("copy", "bitcast") and x.operands[0] in made:
                x = made[x.operands[0]]
                continue
            loop = made[x.operands[0]] if x.opcode == "get-tuple-element" else x
            if loop is x or loop.opcode != "while":
                return x.name
            body = self.computations[loop.called("body")]
            root = next(inner for inner in body.values() if inner.root)
            index = _index(x)
            kept = body[self._source(body, body[root.operands[index]])]
            if kept.opcode != "get-tuple-element" or _index(kept) != index:
                return x.name
            x = made[made[loop.operands[0]].operands[index]]

    def _read(self, made: Computation, name: str) -> int:
        """Bytes of a value that its users read, loops aside; of several users, all of them."""
        total = 0
        for user in made.values():
            for place, operand in enumerate(user.operands):
                if operand != name or user.opcode in ("tuple", "while"):
                    continue
                if user.opcode in PICKS:
                    total += user.nbytes if place == 0 else 0
                elif user.opcode == "slice-start":  # its result is a tuple: operand, slice
                    total += user.nbytes - made[name].nbytes
                elif user.opcode in RENAMES or self._opcode(user) == "copy":
                    total += self._read(made, user.name)
                elif user.opcode == "fusion":
                    inner = self.computations[user.called("calls")]
                    parameter = _parameter(inner, place)
                    total += min(self._read(inner, parameter.name), made[name].nbytes)
                elif user.opcode == "call":
                    inner = self.computations[user.called("to_apply")]
                    total += self._read(inner, _parameter(inner, place).name)
                else:
                    total += made[name].nbytes
        return total


def _nbytes(kind: str, size: str) -> int:
    return BYTES.get(kind, 4) * math.prod(int(n) for n in size.split(",") if n)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    """Reads `shape opcode(operands), attributes`."""
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closing(rest, opened)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[opened:closed]))
    return Instruction(name, shape, rest[:opened], operands, rest[opened:], root)


def _closing(text: str, opened: int) -> int:
    """Where the bracket that opens there closes."""
    depth = 0
    for place in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _index(element: Instruction) -> int:
    return int(re.search(r"index=(\d+)", element.attributes)[1])


def _parameter(computation: Computation, place: int) -> Instruction:
    start = f"({place})"
    return next(
        x
        for x in computation.values()
        if x.opcode == "parameter" and x.attributes.startswith(start)
    )


def _kernel(made: Instruction) -> str | None:
    if made.opcode == "custom-call":
        return re.search(r'custom_call_target="([^"]*)"', made.attributes)[1]
    found = re.search(r'"kind":"(__[\w]+)"', made.attributes)
    return found[1] if made.opcode == "fusion" and found else None
