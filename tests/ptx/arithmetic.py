"""Python source of PTX's arithmetic instructions."""

import numpy as np

from tests.ptx.program import WIDTH, EmulatorError


class Arithmetic:
    """The arithmetic part of `tests.ptx.code.Generator`.

    An `op_NAME(i, w, m)` returns source for instruction i: `w` is an argument `,where=MASK` for
    what it writes, `m` the name of the mask.
    """

    def known(self, i, allowed):
        unknown = [m for m in i.mods[:-1] if m not in allowed]
        if unknown:
            raise EmulatorError(f"unknown modifiers {unknown}: {i.text}")

    def binary(self, i, where, function, allowed=(), type_=None):
        self.known(i, allowed)
        t = type_ or i.type
        d, a, b = self.define(i.args[0], t), self.use(i.args[1], t), self.use(i.args[2], t)
        if "ftz" in i.mods:
            return f"copyto({d},flush({function}(flush({a}),flush({b}))){where})"
        return f"{function}({a},{b},out={d}{where})"

    @staticmethod
    def unsigned(t):  # wrapping arithmetic is the same for signed and unsigned
        return "u" + t[1:] if t[0] == "s" else t

    def op_add(self, i, w, m):
        return self.binary(i, w, "add", ("rn", "ftz"), self.unsigned(i.type))

    def op_sub(self, i, w, m):
        return self.binary(i, w, "subtract", ("rn", "ftz"), self.unsigned(i.type))

    def op_mul(self, i, w, m):
        if i.type[0] == "f":
            return self.binary(i, w, "multiply", ("rn", "ftz"))
        if "wide" in i.mods:
            return self.wide(i, w)
        if "hi" in i.mods:
            t = i.type
            d, a, b = self.define(i.args[0], t), self.use(i.args[1], t), self.use(i.args[2], t)
            return f"copyto({d}, mul_high({a},{b}),casting='unsafe'{w})"
        return self.binary(i, w, "multiply", ("lo",), self.unsigned(i.type))

    def wide(self, i, w, add=None):
        t = i.type
        to = t[0] + str(2 * int(t[1:]))
        d, a, b = self.define(i.args[0], to), self.use(i.args[1], t), self.use(i.args[2], t)
        kind = {"s64": "i8", "u64": "u8", "s32": "i4", "u32": "u4"}[to]
        if add is None:
            return f"multiply({a},{b},out={d},dtype='{kind}'{w})"
        c = self.use(add, to)
        return f"add(multiply({a},{b},dtype='{kind}'),{c},out={d}{w})"

    def op_mad(self, i, w, m):
        if "wide" in i.mods:
            return self.wide(i, w, i.args[3])
        self.known(i, ("lo",))
        t = self.unsigned(i.type)
        d, a, b, c = self.define(i.args[0], t), *(self.use(x, t) for x in i.args[1:])
        return f"add(multiply({a},{b}),{c},out={d}{w})"

    def op_fma(self, i, w, m):
        self.known(i, ("rn", "ftz"))
        assert i.type == "f32", i.text
        d, a, b, c = self.define(i.args[0], "f32"), *(self.use(x, "f32") for x in i.args[1:])
        if "ftz" in i.mods:
            return f"copyto({d},flush(fma(flush({a}),flush({b}),flush({c}))){w})"
        return [
            f"multiply({a},{b},out=t64,dtype='f8')",
            f"add(t64,{c},out={d},dtype='f8',casting='unsafe'{w})",
        ]

    def op_div(self, i, w, m):
        t = i.type
        d, a, b = self.define(i.args[0], t), self.use(i.args[1], t), self.use(i.args[2], t)
        if t == "f32":
            self.known(i, ("full", "approx", "rn", "ftz"))
            if "rn" in i.mods:
                return f"divide({a},{b},out={d}{w})"
            return f"copyto({d},divide({a},{b}){w})"
        return f"copyto({d},quotient({a},{b},{m}){w})"

    def op_rem(self, i, w, m):
        t = i.type
        d, a, b = self.define(i.args[0], t), self.use(i.args[1], t), self.use(i.args[2], t)
        return f"copyto({d},remainder({a},{b},{m}){w})"

    def unary(self, i, w, expression, allowed=("approx", "ftz")):
        self.known(i, allowed)
        d, a = self.define(i.args[0], i.type), self.use(i.args[1], i.type)
        return f"copyto({d},{expression.format(a=a)}{w})"

    def op_ex2(self, i, w, m):
        ftz = "ftz" in i.mods
        return self.unary(i, w, f"exp2({{a}},{ftz})")

    def op_lg2(self, i, w, m):
        return self.unary(i, w, "log2({a})")

    def op_rcp(self, i, w, m):
        return self.unary(i, w, "divide(one,{a})", ("approx", "ftz", "rn"))

    def op_sqrt(self, i, w, m):
        return self.unary(i, w, "sqrt({a})", ("approx", "ftz", "rn"))

    def op_rsqrt(self, i, w, m):
        return self.unary(i, w, "divide(one,sqrt({a}))")

    def op_abs(self, i, w, m):
        return self.unary(i, w, "absolute({a})", ("ftz",))

    def op_neg(self, i, w, m):
        return self.unary(i, w, "negative({a})", ("ftz",))

    def op_not(self, i, w, m):
        if i.type == "pred":
            return self.unary(i, w, "logical_not({a})", ())
        return self.unary(i, w, "invert({a})", ())

    def op_min(self, i, w, m):
        return self.binary(
            i, w, ("minimum" if i.type[0] != "f" or "NaN" in i.mods else "fmin"), ("NaN", "ftz")
        )

    def op_max(self, i, w, m):
        return self.binary(
            i, w, ("maximum" if i.type[0] != "f" or "NaN" in i.mods else "fmax"), ("NaN", "ftz")
        )

    def op_and(self, i, w, m):
        return self.binary(i, w, "bitwise_and")

    def op_or(self, i, w, m):
        return self.binary(i, w, "bitwise_or")

    def op_xor(self, i, w, m):
        return self.binary(i, w, "bitwise_xor")

    def shift(self, i, w, function):
        t = i.type
        d, a, b = self.define(i.args[0], t), self.use(i.args[1], t), self.use(i.args[2], "u32")
        kind = {"b": "u", "u": "u", "s": "i"}[t[0]] + str(WIDTH[t])
        bits = 8 * WIDTH[t]
        return (
            f"copyto({d},{function}({a},minimum({b},{bits}).astype('{kind}')),casting='unsafe'{w})"
        )

    def op_shl(self, i, w, m):
        return self.shift(i, w, "left_shift")

    def op_shr(self, i, w, m):
        return self.shift(i, w, "right_shift")

    def op_bfe(self, i, w, m):
        position, length = int(i.args[2], 0), int(i.args[3], 0)
        assert length, i.text
        assert position + length <= 32, i.text
        d, a = self.define(i.args[0], i.type), self.use(i.args[1], i.type)
        if i.type == "u32":
            mask = self.constant(np.uint32((1 << length) - 1))
            down = self.constant(np.uint32(position))
            return f"bitwise_and(right_shift({a},{down}),{mask},out={d}{w})"
        assert i.type == "s32", i.text
        up, down = (
            self.constant(np.int32(32 - position - length)),
            self.constant(np.int32(32 - length)),
        )
        return f"right_shift(left_shift({a},{up}),{down},out={d}{w})"

    def op_bfi(self, i, w, m):
        position, length = int(i.args[3], 0), int(i.args[4], 0)
        d, a, b = (
            self.define(i.args[0], "b32"),
            self.use(i.args[1], "b32"),
            self.use(i.args[2], "b32"),
        )
        mask = ((1 << length) - 1) << position & 0xFFFFFFFF
        up, field, rest = (
            self.constant(np.uint32(value)) for value in (position, mask, ~mask & 0xFFFFFFFF)
        )
        return f"copyto({d},(({a}<<{up})&{field})|({b}&{rest}){w})"

    def op_prmt(self, i, w, m):
        d, a, b, s = self.define(i.args[0], "b32"), *(self.use(x, "b32") for x in i.args[1:])
        return f"copyto({d},permute({a},{b},{s}){w})"

    def op_lop3(self, i, w, m):
        d, a, b, c = self.define(i.args[0], "b32"), *(self.use(x, "b32") for x in i.args[1:4])
        return f"copyto({d},lop3({a},{b},{c},{int(i.args[4], 0)}){w})"

    def op_selp(self, i, w, m):
        t = i.type
        d, a, b, p = (
            self.define(i.args[0], t),
            self.use(i.args[1], t),
            self.use(i.args[2], t),
            self.use(i.args[3], "pred"),
        )
        return f"copyto({d},select({p},{a},{b}){w})"

    def op_setp(self, i, w, m):
        compare, *flags, t = i.mods
        assert flags in ([], ["ftz"]), i.text
        assert len(i.args) == 3, i.text
        assert "|" not in i.args[0], i.text
        d, a, b = self.define(i.args[0], "pred"), self.use(i.args[1], t), self.use(i.args[2], t)
        if flags:
            a, b = f"flush({a})", f"flush({b})"
        simple = {
            "eq": "equal",
            "ne": "not_equal",
            "lt": "less",
            "le": "less_equal",
            "gt": "greater",
            "ge": "greater_equal",
            "lo": "less",
            "ls": "less_equal",
            "hi": "greater",
            "hs": "greater_equal",
        }
        if t[0] != "f" or compare in ("eq", "lt", "le", "gt", "ge"):
            return f"{simple[compare]}({a},{b},out={d}{w})"
        if compare == "neu":
            return f"not_equal({a},{b},out={d}{w})"
        if compare == "ne":
            return f"copyto({d},({a}<{b})|({a}>{b}){w})"
        inverse = {"ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}
        if compare in inverse:
            return f"copyto({d},~({a}{inverse[compare]}{b}){w})"
        if compare == "nan":
            return f"copyto({d},isnan({a})|isnan({b}){w})"
        if compare == "num":
            return f"copyto({d},~(isnan({a})|isnan({b})){w})"
        if compare == "equ":
            return f"copyto({d},~(({a}<{b})|({a}>{b})){w})"
        raise EmulatorError(i.text)
