"""PTX as basic blocks of instructions."""

import re


class EmulatorError(RuntimeError):
    """The kernel did something that a GPU would fault on, or that the emulator does not know."""


WIDTH = {
    **dict.fromkeys(("b8", "u8", "s8"), 1),
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32"), 4),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
    "pred": 0,
}
"""Bytes of a value of each type."""
REGISTER = re.compile(r"%(p|rs|rd|r|f|fd|h|hh)\d+$")
SPECIAL = tuple(f"%{name}.{axis}" for name in ("tid", "ctaid", "nctaid", "ntid") for axis in "xyz")
SPECIAL += ("%laneid", "%warpid")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+\.global\s+\.align\s+\d+\s+)?(\w+)")


class Instruction:
    """One instruction: its name, modifiers, operands, predicate, and where in the kernel it is."""

    __slots__ = ("args", "mods", "name", "predicate", "text", "where")

    def __init__(self, predicate, name, args, where, text):
        self.predicate, self.args, self.where, self.text = predicate, args, where, text
        self.name, *self.mods = name.split(".")

    @property
    def type(self):
        return self.mods[-1]


class Program:
    """One kernel's PTX as basic blocks; `registers` maps names to their types."""

    def __init__(self, ptx):
        self.ptx = ptx
        header = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\{", ptx, re.S)
        assert header, "no kernel in the PTX"
        self.name = header[1]
        self.params = _PARAMETER.findall(header[2])
        self.threads = int(re.search(r"\.reqntid\s+(\d+)", header[3])[1])
        body = ptx[header.end() :]
        self.registers, statements = {}, []
        where = "?"
        for raw in body.splitlines():
            if found := re.match(r"\s*\.loc\s+\d+\s+\d+\s+\d+.*//\s*(\S+?):(\d+):\d+", raw):
                where = f"{found[1]}:{found[2]}"
                continue
            line = raw.split("//")[0].strip()
            if not line or line.startswith((".loc", ".pragma")):
                continue
            if found := re.match(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>;", line):
                for i in range(int(found[3])):
                    self.registers[f"%{found[2]}{i}"] = found[1]
                continue
            if line == "}":
                break
            if line == "{":
                raise EmulatorError("nested scope in PTX: not supported")
            if found := re.match(r"(\$?\w+):$", line):
                statements.append(found[1])
                continue
            for part in line.split(";"):
                if part := part.strip():
                    statements.append(self._instruction(part, where))
        targets = {i.args[0] for i in statements if not isinstance(i, str) and i.name == "bra"}
        self.blocks, self.labels = [[]], {}
        for s in statements:
            if isinstance(s, str):
                if s in targets:
                    if self.blocks[-1]:
                        self.blocks.append([])
                    self.labels[s] = len(self.blocks) - 1
                continue
            self.blocks[-1].append(s)
            if s.name in ("bra", "ret", "exit", "bar", "barrier"):
                self.blocks.append([])
        if not self.blocks[-1]:
            self.blocks.pop()
        self.instructions = sum(map(len, self.blocks))

    @staticmethod
    def _instruction(text, where):
        found = re.match(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)$", text, re.S)
        if not found:
            raise EmulatorError(f"cannot parse: {text}")
        predicate = (found[2], bool(found[1])) if found[2] else None
        return Instruction(
            predicate, found[3], [a.strip() for a in _OPERAND.findall(found[4])], where, text
        )
