"""Python source of a program's basic blocks."""

import re

import numpy as np

from tests.ptx.arithmetic import Arithmetic
from tests.ptx.program import REGISTER, SPECIAL, WIDTH, EmulatorError, Instruction

_SUFFIX = {"u": "u", "s": "s", "b": "u", "f": "f"}


class Generator(Arithmetic):
    """Source of a program's blocks; register %r5 is r5_u, r5_s, r5_f (r5_l, r5_h are halves)."""

    def __init__(self, program):
        self.program = program
        self.constants = {}
        self.names = {}  # python name -> (register, view)
        self.sites = []
        self.source = {}

    def view(self, register, kind):
        name = register.replace("%", "") + "_" + kind
        self.names[name] = (register, kind)
        return name

    def constant(self, value):
        key = (str(value.dtype), value.tobytes())
        return self.constants.setdefault(key, (f"k{len(self.constants)}", value))[0]

    def immediate(self, text, type_):
        text = text.rstrip("U") if not text.startswith("0f") else text
        if text.startswith(("0f", "0F")):
            bits = np.array([int(text[2:], 16)], np.uint32)
            return self.constant(bits.view(np.float32)[0] if type_ in ("f32",) else bits[0])
        if text.startswith(("0d", "0D")):
            bits = np.array([int(text[2:], 16)], np.uint64)
            return self.constant(bits.view(np.float64)[0] if type_ == "f64" else bits[0])
        value = int(text, 0)
        if type_ == "pred":
            return self.constant(np.bool_(value != 0))
        width = WIDTH[type_]
        kind = "i" if type_[0] == "s" else "u"
        value &= (1 << 8 * width) - 1
        raw = np.array([value], f"u{width}")
        assert type_[0] in "usb", f"integer immediate for {type_}"
        assert type_ != "bf16", "integer immediate for bf16"
        return self.constant(raw.view(f"{kind}{width}")[0])

    def use(self, text, type_):
        """Expression for a source operand, as an array or scalar of the type."""
        if text in SPECIAL:
            return f"special[{text!r}]"
        if REGISTER.match(text):
            have = self.program.registers[text]
            width = WIDTH[type_]
            if width != WIDTH[have]:
                raise EmulatorError(f"{text} is {have}, used as {type_}")
            if type_ == "pred":
                return self.view(text, "p")
            if type_ in ("bf16", "f16"):
                return self.view(text, "u")
            return self.view(text, _SUFFIX[type_[0]])
        if found := re.match(r"global_smem(?:\+(\d+))?$", text):
            return self.constant(np.array([int(found[1] or 0)], f"u{WIDTH[type_]}")[0])
        return self.immediate(text, type_)

    def define(self, text, type_):
        assert REGISTER.match(text), text
        return self.use(text, type_)

    def address(self, text):
        """(register view or None, offset) of a memory operand."""
        inner = text.strip("[] ").replace(" ", "")
        found = re.match(r"(%\w+|global_smem)?(?:\+?(-?\d+))?$", inner)
        if not found:
            raise EmulatorError(f"address {text}")
        offset = int(found[2] or 0)
        if found[1] is None or found[1] == "global_smem":
            return None, offset
        wide = self.program.registers[found[1]] == "b64"
        return self.view(found[1], "u"), offset, wide

    def block(self, index, masked):
        """Source of the function of one block; it returns the next block or None if lanes part."""
        lines = ["def block(m):" if masked else "def block():"]
        block, end = self.program.blocks[index], None
        for i, instruction in enumerate(block):
            last = i == len(block) - 1
            if instruction.name in ("bra", "ret", "exit", "bar", "barrier"):
                end = self.control(instruction, index, masked)
                if end is None:  # a warp barrier: no change of control
                    continue
                assert last or instruction.name == "bar"
                lines += end
                break
            lines += self.guarded(instruction, masked)
        if end is None:
            lines += [f"go(m,{index + 1})" if masked else f"return {index + 1}"]
        return "\n ".join(lines) + "\n"

    def control(self, i, index, masked):
        if i.name == "bra":
            target = self.program.labels[i.args[0]]
            if i.predicate is None:
                return [f"go(m,{target})" if masked else f"return {target}"]
            p = self.view(i.predicate[0], "p")
            taken = f"~{p}" if i.predicate[1] else p
            if masked:
                return [f"branch_masked(m,{taken},{target},{index + 1})"]
            return [f"return branch({taken},{target},{index + 1})"]
        if i.name in ("ret", "exit"):
            stop = len(self.program.blocks)
            if i.predicate is None:
                return [f"go(m,{stop})" if masked else f"return {stop}"]
            p = self.view(i.predicate[0], "p")
            taken = f"~{p}" if i.predicate[1] else p
            return [
                f"branch_masked(m,{taken},{stop},{index + 1})"
                if masked
                else f"return branch({taken},{stop},{index + 1})"
            ]
        if i.predicate is not None:
            raise EmulatorError(f"predicated barrier: {i.text}")
        text = i.text
        if re.match(r"bar\.warp\.sync\s+-1|bar\.warp\.sync\s+0xffffffff", text):
            return [
                f"warp_barrier(m,{index + 1})"
                if masked
                else f"return warp_barrier(None,{index + 1})"
            ]
        if re.match(r"(bar|barrier)\.(cta\.)?sync(\.aligned)?\s+0$", text):
            return [f"barrier(m,{index + 1})" if masked else f"return barrier(None,{index + 1})"]
        raise EmulatorError(f"unknown barrier: {i.text}")

    def guarded(self, i, masked):
        """Source of one instruction: W says where its result may go, M is the mask's name."""
        if i.predicate is None:
            mask = "m" if masked else "None"
            lines = []
        else:
            p = self.view(i.predicate[0], "p")
            q = f"~{p}" if i.predicate[1] else p
            lines = [f"q = m & {q}" if masked else f"q = {q}"]
            mask = "q"
        where = "" if mask == "None" else f",where={mask}"
        emit = getattr(self, "op_" + i.name.replace("-", "_"), None)
        if emit is None:
            raise EmulatorError(f"unknown opcode: {i.text}")
        body = emit(i, where, mask)
        return lines + ([body] if isinstance(body, str) else body)

    def site(self, i):
        self.sites.append(i)
        return len(self.sites) - 1

    def op_mov(self, i, w, m):
        t = i.type
        d, a = i.args
        small = {"b32": ("u16", "l", "h"), "b64": ("u32", "l", "h")}
        if d.startswith("{"):
            part, *views = small[t]
            lines = []
            for piece, v in zip([x.strip() for x in d.strip("{}").split(",")], views, strict=True):
                if piece != "_":
                    lines.append(f"copyto({self.define(piece, part)},{self.view(a, v)}{w})")
            return lines
        if a.startswith("{"):
            part, *views = small[t]
            pieces = [x.strip() for x in a.strip("{}").split(",")]
            uses = [self.use(x, part) for x in pieces]
            if d in pieces:
                raise EmulatorError(i.text)
            return [f"copyto({self.view(d, v)},{u}{w})" for u, v in zip(uses, views, strict=True)]
        return f"copyto({self.define(d, t)},{self.use(a, t)}{w})"

    def op_cvt(self, i, w, m):
        to, source = i.mods[-2:]
        flags = set(i.mods[:-2])
        if to in ("bf16x2", "f16x2") and source == "f32":
            assert flags == {"rn"}, i.text
            high, low = self.use(i.args[1], "f32"), self.use(i.args[2], "f32")
            f = "to_bf16" if to == "bf16x2" else "to_f16"
            return [f"t = ({f}({high}),{f}({low}))", f"copyto({self.view(i.args[0], 'h')},t[0]{w})",
                    f"copyto({self.view(i.args[0], 'l')},t[1]{w})"]  # fmt: skip
        d, a = self.define(i.args[0], to), self.narrow(i.args[1], source)
        if (to, source) == ("f32", "bf16"):
            return f"copyto({self.view(i.args[0], 'u')},left_shift({a},sixteen,dtype='u4'){w})"
        if (to, source) == ("f32", "f16"):
            return f"copyto({d},{a}.view('f2').astype('f4'){w})"
        if to in ("bf16", "f16") and source == "f32":
            assert flags == {"rn"}, i.text
            return f"copyto({d},{'to_bf16' if to == 'bf16' else 'to_f16'}({a}){w})"
        if to[0] in "us" and source[0] in "us" and not flags:
            return f"copyto({d},{a},casting='unsafe'{w})"
        if to == "f32" and source[0] in "us" and flags == {"rn"}:
            return f"copyto({d},{a},casting='unsafe'{w})"
        whole = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
        rounding = next((whole[f] for f in flags if f in whole), None)
        if source == "f32" and rounding and flags <= {*whole, "ftz"}:
            if to == "f32":
                return f"copyto({d},{rounding}({a}){w})"
            if to in ("s32", "u32"):
                return f"copyto({d},to_integer({rounding}({a}),{to!r}){w})"
        raise EmulatorError(f"unknown conversion: {i.text}")

    def narrow(self, register, type_):
        """A source that may be wider than its type, which then means its low bits."""
        have = self.program.registers.get(register)
        if have and type_[0] in "us" and WIDTH[have] == 2 * WIDTH[type_]:
            return self.view(register, "sl" if type_[0] == "s" else "l")
        return self.use(register, type_)

    def op_ld(self, i, w, m):
        t = i.type
        if i.mods[0] == "param":
            name = i.args[1].strip("[] ")
            register = i.args[0]
            width = WIDTH[self.program.registers[register]]
            to = t[0] + str(8 * width) if t[0] in "usb" else t
            kind = ("i" if t[0] == "s" else "u") + str(WIDTH[t])
            value = f"params[{name!r}].astype('{kind}')"
            return f"copyto({self.define(register, to)},{value},casting='unsafe'{w})"
        return self.access(i, m, "load")

    def op_st(self, i, w, m):
        return self.access(i, m, "store")

    def access(self, i, m, verb):
        space = i.mods[0].split("::")[0]
        allowed = ["v2", "v4", "v8", "ca", "cg", "cs", "cv", "wb", "wt", "nc", "relaxed", "gpu"]
        allowed += ["L1::evict_last", "L1::evict_first", "L1::no_allocate", "L2::cache_hint"]
        allowed += ["volatile"]
        self.known(Instruction(None, "x." + ".".join([*i.mods[1:]]), [], "", i.text), allowed)
        if space not in ("global", "shared"):
            raise EmulatorError(i.text)
        data, place = (i.args[0], i.args[1]) if verb == "load" else (i.args[1], i.args[0])
        pieces = [x.strip() for x in data.strip("{}").split(",")]
        width = WIDTH[i.type]
        count = next((int(x[1:]) for x in i.mods if re.match(r"v\d$", x)), 1)
        assert count == len(pieces), i.text
        views = []
        for x in pieces:
            if REGISTER.match(x):
                have = self.program.registers[x]
                if WIDTH[have] != width and not (width == 1 and WIDTH[have] == 2):
                    raise EmulatorError(f"width: {i.text}")
                views.append(self.view(x, "u"))
            else:
                assert verb == "store"
                views.append(self.use(x, "b" + str(8 * width)))
        register, offset, *_ = self.address(place)
        return (
            f"{space}_{verb}({register},{offset},{width},({','.join(views)},),{m},{self.site(i)})"
        )

    def op_ldmatrix(self, i, w, m):
        return self.matrix(i, m, i.args[0], i.args[1], "load")

    def op_stmatrix(self, i, w, m):
        return self.matrix(i, m, i.args[1], i.args[0], "store")

    def matrix(self, i, m, data, place, verb):
        assert {"m8n8", "shared"} <= {*i.mods}, i.text
        assert i.type == "b16", i.text
        pieces = [self.view(x.strip(), "u") for x in data.strip("{}").split(",")]
        count = next(int(x[1:]) for x in i.mods if re.match(r"x\d$", x))
        assert count == len(pieces), i.text
        register, offset, *_ = self.address(place)
        pieces = ",".join(pieces)
        transposed = "trans" in i.mods
        return f"matrix_{verb}({register},{offset},({pieces},),{transposed},{m},{self.site(i)})"

    def op_shfl(self, i, w, m):
        assert i.mods[0] == "sync", i.text
        assert i.type == "b32", i.text
        if "|" in i.args[0]:
            raise EmulatorError(i.text)
        d, a = self.define(i.args[0], "b32"), self.use(i.args[1], "b32")
        b, c = (self.use(x, "b32") for x in i.args[2:4])
        members = i.args[4]
        assert members in ("-1", "0xffffffff"), i.text
        return f"copyto({d},shuffle({i.mods[1]!r},{a},{b},{c},{m},{self.site(i)}){w})"

    def op_prefetch(self, i, w, m):
        return "pass"

    def op_fence(self, i, w, m):
        return "pass"

    def op_membar(self, i, w, m):
        return "pass"
