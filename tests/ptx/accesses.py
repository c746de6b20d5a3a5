"""Loads and stores of the emulated threads, each of them checked."""

import numpy as np

from tests.ptx.memory import SHIFT, put
from tests.ptx.program import EmulatorError


class Accesses:
    """The memory part of `tests.ptx.executor.Executor`."""

    def matrix_rows(self, address, offset, count, mask, site):
        """Byte offsets into all shared memory of the rows' beginnings, (warps, matrices, 8)."""
        if mask is not None:
            self.whole_warps(mask, "ldmatrix/stmatrix")
        base = np.zeros(self.lanes, np.int64) if address is None else address.astype(np.int64)
        base = ((base + offset) & 0xFFFFFFFF).reshape(-1, 32)[
            :, : 8 * count
        ]  # shared addresses have 32 bits
        active = slice(None) if mask is None else np.flatnonzero(mask.reshape(-1, 32).any(1))
        base = base[active]
        warp_cta = self.local_cta.reshape(-1, 32)[active, 0]
        i = self.generator.sites[site]
        if (base & 15).any():
            raise EmulatorError(f"misaligned matrix row: {i.text} {i.where}")
        if (base < 0).any() or (base + 16 > self.shared_limit).any():
            raise EmulatorError(
                f"shared memory out of bounds: {i.text} {i.where} "
                f"{base.max()} of {self.shared_limit}"
            )
        return (base + warp_cta[:, None] * self.shared_size).reshape(-1, count, 8), active

    @staticmethod
    def matrix_places(transposed):
        """(32, 2): row and column of the two elements that a lane holds."""
        t = np.arange(32)
        row, column = np.repeat(t // 4, 2).reshape(32, 2), 2 * (t % 4)[:, None] + np.arange(2)
        return (column, row) if transposed else (row, column)

    def matrix_cells(self, rows, r, c, active):
        """16-bit element indices (warps, matrices, 32, 2), and shadow cells with tokens."""
        elements = rows[:, :, r] // 2 + c
        token = self.token.reshape(-1, 32)[active]
        cells = elements * 2 // self.shared_cell
        tokens = np.broadcast_to(token[:, None, :, None], elements.shape)
        return elements, cells.reshape(-1), np.ascontiguousarray(tokens).reshape(-1)

    def matrix_load(self, address, offset, out, transposed, mask, site):
        rows, active = self.matrix_rows(address, offset, len(out), mask, site)
        elements, cells, tokens = self.matrix_cells(rows, *self.matrix_places(transposed), active)
        values = self.shared_views[2][elements].astype(np.uint32)
        words = values[..., 0] | values[..., 1] << np.uint32(16)
        for k, register in enumerate(out):
            register.reshape(-1, 32)[active] = words[:, k]
        self.check_shared(cells, tokens, "read", site)

    def matrix_store(self, address, offset, data, transposed, mask, site):
        rows, active = self.matrix_rows(address, offset, len(data), mask, site)
        elements, cells, tokens = self.matrix_cells(rows, *self.matrix_places(transposed), active)
        words = np.stack([register.reshape(-1, 32)[active] for register in data], axis=1)
        halves = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1).astype(
            np.uint16
        )
        marks = put(self.shared_views[2], elements.reshape(-1), [halves.reshape(-1)])
        self.check_shared(cells, tokens, "write", site, *marks)

    def check_shared(self, cells, tokens, verb, site, changed=None, lost=None):
        i = self.generator.sites[site]

        def report(kind, where, mine, other):
            self.report("shared " + kind, i, mine, other)

        if verb == "read":
            if not self.shared_initialised[cells].all():
                self.emulator.find(
                    self.name, "shared memory read before it was written", i.where, i.text
                )
            self.shared_shadow.read(cells, tokens, report)
        else:
            per = len(cells) // len(changed)
            self.shared_shadow.write(
                cells, tokens, report, np.repeat(changed, per), np.repeat(lost, per)
            )
            self.shared_initialised[cells] = True

    def report(self, kind, i, mine, other):
        """A race: within a warp (lanes run in step, if not by promise) or between warps."""
        mine, other = int(mine.flat[0]), int(other.flat[0])
        t, o = mine & 4095, other & 4095
        if mine >> 40 != other >> 40:
            kind = kind.replace(
                "replicas that differ, stored by one instruction", "two CTAs write at once"
            )
        else:
            many = o == 4095
            if kind.startswith("shared") or not many:
                kind += (
                    " (several readers)"
                    if many
                    else " (one warp)"
                    if t >> 5 == o >> 5
                    else " (two warps)"
                )
        self.emulator.find(
            self.name,
            kind,
            i.where,
            i.text,
            f"threads {t} and {o}, CTAs {mine >> 40} and {other >> 40}",
        )

    def shared_place(self, address, offset, width, count, mask, site):
        if mask is None:
            chosen = None
            base = (
                np.full(self.lanes, offset, np.int64)
                if address is None
                else (address.astype(np.int64) + offset) & 0xFFFFFFFF
            )
            cta, token = self.local_cta, self.token
        else:
            chosen = np.flatnonzero(mask)
            if not chosen.size:
                return None
            base = (
                np.full(chosen.size, offset, np.int64)
                if address is None
                else (address[chosen].astype(np.int64) + offset) & 0xFFFFFFFF
            )
            cta, token = self.local_cta[chosen], self.token[chosen]
        size = width * count
        i = self.generator.sites[site]
        if base.min() < 0 or base.max() + size > self.shared_limit:
            raise EmulatorError(
                f"shared memory out of bounds: {i.text} {i.where}: "
                f"{base.max()} of {self.shared_limit}"
            )
        if np.bitwise_or.reduce(base) & (size - 1):
            raise EmulatorError(f"misaligned shared access: {i.text} {i.where}")
        base = base + cta * self.shared_size
        per = max(1, size // self.shared_cell)
        cells = (base // self.shared_cell)[:, None] + np.arange(per)
        return chosen, base >> SHIFT[width], cells.reshape(-1), np.repeat(token, per)

    def shared_load(self, address, offset, width, out, mask, site):
        place = self.shared_place(address, offset, width, len(out), mask, site)
        if place is None:
            return
        chosen, index, cells, tokens = place
        view = self.shared_views[width]
        values = [view[index + k] for k in range(len(out))]
        for register, value in zip(out, values, strict=True):
            register[slice(None) if chosen is None else chosen] = value
        self.check_shared(cells, tokens, "read", site)

    def shared_store(self, address, offset, width, data, mask, site):
        place = self.shared_place(address, offset, width, len(data), mask, site)
        if place is None:
            return
        chosen, index, cells, tokens = place
        data = [x if chosen is None or x.ndim == 0 else x[chosen] for x in data]
        marks = put(self.shared_views[width], index, data)
        self.check_shared(cells, tokens, "write", site, *marks)

    def global_place(self, address, offset, width, count, mask, site):
        if mask is None:
            chosen, a = None, address
        else:
            chosen = np.flatnonzero(mask)
            if not chosen.size:
                return None
            a = address[chosen]
        if offset:
            a = a + np.uint64(offset & (1 << 64) - 1)
        size = width * count
        i = self.generator.sites[site]
        low, high = int(a.min()), int(a.max())
        if int(np.bitwise_or.reduce(a)) & (size - 1):
            raise EmulatorError(f"misaligned address: {self.name} {i.text} at {i.where}")
        region = self.memory.find(low)
        if region is None or high + size > region.end:
            bad = low if region is None else high
            near = [(r.name, hex(r.base), hex(r.end)) for r in self.memory.regions]
            raise EmulatorError(
                f"out of bounds: {self.name} {i.text} at {i.where}: {bad:#x}, tensors {near}"
            )
        place = (a - np.uint64(region.base)).astype(np.int64)
        per = size // region.cell
        cells = place // region.cell
        if per > 1:
            cells = (cells[:, None] + np.arange(per)).reshape(-1)
        if not region.all_valid and not region.valid[cells].all():
            raise EmulatorError(
                f"outside the tensor's elements: {self.name} {i.text} at {i.where}: {region.name}"
            )
        return chosen, region, place >> SHIFT[width], cells, per

    def tokens(self, chosen, per):
        token = self.token if chosen is None else self.token[chosen]
        return np.repeat(token, per) if per > 1 else token

    def global_load(self, address, offset, width, out, mask, site):
        place = self.global_place(address, offset, width, len(out), mask, site)
        if place is None:
            return
        chosen, region, index, cells, per = place
        view = region.views[width]
        values = [view[index + k] if k else view[index] for k in range(len(out))]
        for register, value in zip(out, values, strict=True):
            register[slice(None) if chosen is None else chosen] = value
        if region.fresh:
            i = self.generator.sites[site]
            if not region.initialised[cells].all():
                self.emulator.find(
                    self.name, f"read before written: {region.name}", i.where, i.text
                )
            region.shadow.read(
                cells,
                self.tokens(chosen, per),
                lambda k, c, m, o: self.report(f"{region.name} {k}", i, m, o),
            )

    def global_store(self, address, offset, width, data, mask, site):
        place = self.global_place(address, offset, width, len(data), mask, site)
        if place is None:
            return
        chosen, region, index, cells, per = place
        data = [x if chosen is None or x.ndim == 0 else x[chosen] for x in data]
        changed, lost = put(region.views[width], index, data)
        i = self.generator.sites[site]
        if not region.fresh:
            self.emulator.find(self.name, f"store to an input: {region.name}", i.where, i.text)
            return
        region.shadow.write(
            cells,
            self.tokens(chosen, per),
            lambda kind, cells, mine, other: self.report(f"{region.name} {kind}", i, mine, other),
            np.repeat(changed, per),
            np.repeat(lost, per),
        )
        region.initialised[cells] = True
