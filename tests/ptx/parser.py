"""PTX text -> a Program: a kernel's instructions as the machine executes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import binding
from .binding import CONSTANT, LABEL, MEMORY, NOTHING, PREDICATE, REGISTER_32, REGISTER_64
from .instructions import Unsupported, decode, size_of

SHARED_BASE = 1024  # where a program's shared memory begins: not at 0, so that 0 is outside

# An operand before labels are known: kind, base, index, negated, value; or a label's name.
Operand = tuple[int, int, int, int, int]
UNUSED: Operand = (NOTHING, 0, 0, 0, 0)


@dataclass
class Statement:
    text: str
    line: int  # of the PTX
    source: str  # "forward.py:132 < tile.py:110": the kernel's line, and who inlined it
    scope: tuple[int, ...]  # of the braces around it


# A row that is one statement, and begins with neither a brace nor a label.
WHOLE = re.compile(r"\s*(?![$\w]+:)([^\s{};][^;]*);\s*")


def statements(body: str, line: int, files: dict[int, str]) -> Iterator[Statement]:
    """Of a function's body, which begins in `line`; labels end in a colon."""
    text, source, scope, scopes, start = "", "", [], 0, line
    for row in body.split("\n"):
        row = row.split("//")[0]
        place = re.match(r"\s*\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at (\d+) (\d+))?", row)
        if place and not text.strip():
            pairs = [(place[1], place[2]), (place[3], place[4])]
            source = " < ".join(f"{files.get(int(f), f)}:{at}" for f, at in pairs if f)
            line += 1
            continue
        if (whole := WHOLE.fullmatch(row)) and not text.strip():
            yield Statement(whole[1].replace("\t", " ").strip(), line, source, tuple(scope))
            line += 1
            continue
        for char in row + "\n":
            if not text.strip():
                start = line
                if char == "{":
                    scopes += 1
                    scope.append(scopes)
                    continue
                if char == "}":
                    scope.pop()
                    continue
            if char == ";" or (char == ":" and re.fullmatch(r"\s*[$\w]+", text)):
                yield Statement((text + char).strip(" \t;"), start, source, tuple(scope))
                text = ""
            else:
                text += " " if char in "\n\t" else char
        line += 1


def split_operands(text: str) -> list[str]:
    """By the commas outside of brackets."""
    found, depth = [""], 0
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            found.append("")
        else:
            found[-1] += char
    return [part.strip() for part in found if part.strip()]


def integer(text: str) -> int | None:
    """A literal's bits, or None: 12, -3, 0x7f, 0f3F800000."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", text):
        return int(text[2:], 16)
    if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return None
    text = text.rstrip("U")
    return int(text, 8) if re.fullmatch(r"-?0\d+", text) else int(text, 0)


class Program:
    """A kernel. `places` has (PTX line, source, text) of each instruction."""

    def __init__(self, ptx: str) -> None:
        files = re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', ptx, re.M)
        entry = re.search(r"\.entry\s+(\w+)\((.*?)\)[^{]*\{", ptx, re.S)
        if entry is None:
            raise Unsupported("PTX without an .entry")
        self.name = entry[1]
        self._read_parameters(entry[2])
        self._registers: dict[tuple[tuple[int, ...], str], tuple[int, int]] = {}
        self.counts = {REGISTER_32: len(binding.SPECIAL), REGISTER_64: 0, PREDICATE: 0}
        self.local_bytes = 0
        # Names of memory and where each lies: parameters, the program's shared memory, locals.
        self._offsets = {name: at for name, _, at in self.parameters}
        self._offsets["global_smem"] = SHARED_BASE
        self._constants: dict[int, int] = {}  # value -> index
        depth, braces = 1, re.compile("[{}]").finditer(ptx, entry.end())
        while depth:
            brace = next(braces)
            depth += {"{": 1, "}": -1}[brace[0]]
        line = ptx.count("\n", 0, entry.end()) + 1
        names = {int(number): Path(path).name for number, path in files}
        self._assemble(statements(ptx[entry.end() : brace.start()], line, names))

    def __len__(self) -> int:
        return len(self.places)

    def where(self, pc: int) -> str:
        """An instruction's place, for people."""
        if not 0 <= pc < len(self):
            return ""
        line, source, text = self.places[pc]
        return f"{source or '(no source line)'}, PTX line {line}: {text[:90]}"

    # --- declarations ---

    def _read_parameters(self, text: str) -> None:
        """Name, type and offset of each, in `parameters`; `parameter_bytes` of all."""
        self.parameters, at = [], 0
        for part in split_operands(text):
            match = re.match(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+).*?(\w+_param_\d+)$", part)
            if match is None:
                raise Unsupported(f"parameter {part}")
            size = size_of(match[1])
            at = -(-at // size) * size
            self.parameters.append((match[2], match[1], at))
            at += size
        self.parameter_bytes = at

    def _declare(self, s: Statement) -> None:
        local = re.match(r"\.local\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\]", s.text)
        registers = re.match(r"\.reg\s+\.(\w+)\s+(.*)", s.text)
        if local:
            align = int(local[1])
            self.local_bytes = -(-self.local_bytes // align) * align
            self._offsets[local[2]] = self.local_bytes
            self.local_bytes += -(-int(local[3]) // 16) * 16
        elif registers:
            word = registers[1]
            wide = word != "pred" and size_of(word) == 8
            kind = PREDICATE if word == "pred" else REGISTER_64 if wide else REGISTER_32
            for name in split_operands(registers[2]):
                many = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
                names = [f"{many[1]}{n}" for n in range(int(many[2]))] if many else [name]
                for one in names:
                    self._registers[s.scope, one] = (kind, self.counts[kind])
                    self.counts[kind] += 1
        elif not re.match(r"\.(loc|pragma|section|file)\b", s.text):
            raise Unsupported(f"{s.text} (PTX line {s.line})")

    # --- operands ---

    def _register(self, name: str, scope: tuple[int, ...]) -> tuple[int, int] | None:
        """(kind, index), of the innermost declaration."""
        if name in binding.SPECIAL:
            return REGISTER_32, binding.SPECIAL.index(name)
        while scope and (scope, name) not in self._registers:
            scope = scope[:-1]
        return self._registers.get((scope, name))

    def _value(self, text: str) -> int | None:
        """A literal, or what a name of memory stands for."""
        return self._offsets[text] if text in self._offsets else integer(text)

    def _operand(self, text: str, scope: tuple[int, ...]) -> Operand | str:
        """A label is returned as its name."""
        text = text.strip()
        if text == "_":
            return UNUSED
        if text.startswith("["):
            name, _, offset = text[1:-1].replace(" ", "").partition("+")
            register, base = self._register(name, scope), self._value(name)
            if register:
                return (MEMORY, *register, 0, int(offset or 0))
            if base is None:
                raise Unsupported(f"address {text}")
            return (MEMORY, NOTHING, 0, 0, base + int(offset or 0))
        register = self._register(text.lstrip("!"), scope)
        if register:
            return (register[0], 0, register[1], int(text.startswith("!")), 0)
        value = self._value(text)
        if value is None:
            return text
        index = self._constants.setdefault(value & 2**64 - 1, len(self._constants))
        return (CONSTANT, 0, index, 0, 0)

    def _group(self, text: str, scope: tuple[int, ...]) -> list[Operand | str]:
        """An operand, several in braces, or two destinations as in p|q."""
        parts = text[1:-1].split(",") if text.startswith("{") else text.split("|")
        return [self._operand(part, scope) for part in parts]

    # --- instructions ---

    def _assemble(self, found: Iterator[Statement]) -> None:
        labels, pool, lines = {}, [], []
        self.places: list[tuple[int, str, str]] = []
        for s in found:
            if s.text.endswith(":"):
                labels[s.scope, s.text[:-1]] = len(lines)
            elif s.text.startswith("."):
                self._declare(s)
            else:
                lines.append(self._instruction(s, pool))
                self.places.append((s.line, s.source, " ".join(s.text.split())))
        self.instructions = (binding.Instruction * len(lines))(*lines)
        self.operands = (binding.Operand * max(1, len(pool)))()
        for at, (operand, s) in enumerate(pool):
            if isinstance(operand, str):
                scopes = (s.scope[:depth] for depth in range(len(s.scope), -1, -1))
                target = next((labels[x, operand] for x in scopes if (x, operand) in labels), None)
                if target is None:
                    raise Unsupported(f"operand {operand} (PTX line {s.line})")
                operand = (LABEL, 0, target, 0, 0)
            self.operands[at] = binding.Operand(*operand)
        values = list(self._constants)
        self.constants = (binding.c_uint64 * max(1, len(values)))(*values)

    def _instruction(self, s: Statement, pool: list) -> binding.Instruction:
        match = re.fullmatch(r"(?:@(!?)([%\w]+)\s+)?([\w.:]+)\s*(.*)", s.text, re.S)
        if match is None:
            raise Unsupported(f"{s.text} (PTX line {s.line})")
        try:
            op, modifiers, aligned = decode(match[3])
        except Unsupported as error:
            raise Unsupported(f"instruction {error} (PTX line {s.line}: {s.text})") from None
        groups = [self._group(part, s.scope) for part in split_operands(match[4])]
        groups = self._immediates(match[3], modifiers, groups)
        made = binding.Instruction(op=op, guard=-1, aligned=aligned, groups=len(groups))
        if match[2]:
            made.guard, made.guard_negated = self._register(match[2], s.scope)[1], bool(match[1])
        made.modifier[: len(modifiers)] = modifiers
        for index, group in enumerate(groups):
            made.first[index], made.size[index] = len(pool), len(group)
            pool += [(operand, s) for operand in group]
        return made

    def _immediates(self, name: str, modifiers: list[int], groups: list) -> list:
        """Operands that are really modifiers move to them; the other groups are returned."""

        def value(group: list) -> int:
            return list(self._constants)[group[0][2]]

        if re.match(r"cp\.async\.c[ag]", name):
            modifiers[0] = value(groups[2])
        elif re.match(r"(cp\.async|wgmma)\.wait_group", name):
            modifiers[:] = [value(groups[0])]
            return []
        elif name.startswith("wgmma.mma_async"):
            in_registers = len(groups[1]) > 1
            scale_a, scale_b, *transposed = [value(group) for group in groups[4:]]
            if in_registers and transposed:
                transposed = [0, *transposed]
            flags = [*(transposed or (0, 0)), scale_a != 1, scale_b != 1]
            modifiers[3:] = [sum(int(f) << bit for bit, f in enumerate(flags)), int(in_registers)]
            return groups[:4]
        return groups


@lru_cache(64)
def parse(ptx: str) -> Program:
    """Program(ptx), made once."""
    return Program(ptx)
