"""Memory of the emulated GPU, and the shadow that tells races and unwritten cells."""

import ctypes

import numpy as np
import torch

SHIFT = {1: 0, 2: 1, 4: 2, 8: 3}
UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Shadow:
    """Who touched each cell last.  A token is cta << 40 | barrier epoch << 12 | thread."""

    def __init__(self, cells):
        self.writer = np.full(cells, -1, np.int64)
        self.reader = np.full(cells, -1, np.int64)
        self.readers = np.zeros(cells, bool)  # more than one CTA has read it

    def read(self, cells, token, report):
        x = self.writer[cells]
        x ^= token
        bad = (x - 1).view(np.uint64) < 4095  # same CTA, same epoch, another thread
        if bad.any():
            report("race: read after write", cells[bad], token[bad], self.writer[cells[bad]])
        bad = x >= 1 << 40
        if bad.any():
            report(
                "race: read of another CTA's write", cells[bad], token[bad], self.writer[cells[bad]]
            )
        old = self.reader[cells]
        x = old ^ token
        new = np.where((x - 1).view(np.uint64) < 4095, token | 4095, token)
        far = x >= 1 << 40
        if far.any():
            self.readers[cells[far]] = True
        self.reader[cells] = new
        clash = self.reader[cells] != new
        if clash.any():  # several lanes of this very instruction
            mine = cells[clash]
            if ((self.reader[mine] ^ token[clash]) >= 1 << 40).any():
                self.readers[mine] = True
            self.reader[mine] |= 4095

    def write(self, cells, token, report, changed, lost):
        """`changed`: cells that held something else; `lost`: where another lane's value remained.

        Replicated elements are stored by several threads, all the same value: that is no race.
        """
        x = self.writer[cells] ^ token
        bad = ((x - 1).view(np.uint64) < 4095) & changed
        if bad.any():
            report("race: write after write", cells[bad], token[bad], self.writer[cells[bad]])
        bad = x >= 1 << 40
        if bad.any():
            report(
                "race: write over another CTA's write",
                cells[bad],
                token[bad],
                self.writer[cells[bad]],
            )
        x = self.reader[cells] ^ token
        bad = (x - 1).view(np.uint64) < 4095
        if bad.any():
            report("race: write after read", cells[bad], token[bad], self.reader[cells[bad]])
        bad = (x >= 1 << 40) | (self.readers[cells] & (x >= 0))
        if bad.any():
            report(
                "race: write over what another CTA reads",
                cells[bad],
                token[bad],
                self.reader[cells[bad]],
            )
        self.writer[cells] = token
        if lost.any():
            bad = lost & (self.writer[cells] != token)
            report(
                "race: replicas that differ, stored by one instruction",
                cells[bad],
                token[bad],
                self.writer[cells[bad]],
            )


def put(view, index, data):
    """Store columns of data; which lanes changed memory, and which lanes' values did not stay."""
    changed = np.zeros(index.shape, bool)
    for k, x in enumerate(data):
        changed |= view[index + k] != x
    for k, x in enumerate(data):
        view[index + k] = x
    lost = np.zeros(index.shape, bool)
    for k, x in enumerate(data):
        lost |= view[index + k] != x
    return changed, lost


class Region:
    """A storage that tensors of a launch live in: bytes, which elements may be touched, shadows."""

    def __init__(self, storage_pointer, nbytes, cell, name):
        self.base, self.end, self.cell, self.name = (
            storage_pointer,
            storage_pointer + nbytes,
            cell,
            name,
        )
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(storage_pointer))
        self.views = {w: raw[: nbytes // w * w].view(t) for w, t in UINT.items()}
        self.valid = np.zeros(nbytes // cell, bool)
        self.fresh = False
        self.initialised = None  # of fresh ones
        self.shadow = None


class Memory:
    """Global memory of one launch; `Emulator.fresh` knows what is not initialised."""

    def __init__(self, emulator, named_tensors):
        self.emulator = emulator
        regions = {}
        for name, x in named_tensors:
            if x.numel() == 0:
                continue
            storage = x.untyped_storage()
            key = storage.data_ptr()
            if key not in regions:
                regions[key] = Region(key, storage.nbytes(), min(4, x.element_size()), name)
            region = regions[key]
            assert region.cell == min(4, x.element_size()), "one storage, two element sizes"
            marks = torch.from_numpy(region.valid)
            k = x.element_size() // region.cell
            assert k == 1, "64-bit tensors are not expected"
            marks.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
            if key in emulator.fresh:
                region.fresh = True
                region.initialised = emulator.fresh[key][1]
                if region.initialised is None:
                    region.initialised = np.zeros(len(region.valid), bool)
                    emulator.fresh[key][1] = region.initialised
                region.shadow = Shadow(len(region.valid))
        self.regions = sorted(regions.values(), key=lambda r: r.base)
        for r in self.regions:
            r.all_valid = bool(r.valid.all())

    def find(self, low):
        for region in self.regions:
            if region.base <= low < region.end:
                return region
        return None
