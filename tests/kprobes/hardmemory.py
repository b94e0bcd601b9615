"""Memory of `HardMachine`: pages wherever a test wants them, by page tables in guest memory."""

from hw.bus import DEVICE_PHYS, DEVICE_VIRT
from kprobes import GuestMemoryError
from sim.memory import GuestMemory
from sim.memory import GuestMemoryError as NotMapped
from tests.kprobes.fakecpu import MASK64

FRAMES = 0x100000  # physical memory for tables and pages


class Pages(dict):
    """Page addresses to frames; deleting one unmaps it."""

    def __init__(self, unmap):
        super().__init__()
        self._unmap = unmap

    def __delitem__(self, page):
        self.pop(page)

    def pop(self, page):
        """Unmap a page and return its contents."""
        data = self._unmap(page)
        super().__delitem__(page)
        return data


class Memory(GuestMemory):
    """Guest memory behind page tables that map what ``map`` was told, the device page, and the system's own."""

    def __init__(self, machine):
        super().__init__(machine.engine, machine.loop.fetch_anew)
        self._frame = FRAMES
        self.root = self._new()
        self.pages, self._system = Pages(self._unmap), {}
        self._enter(DEVICE_VIRT, DEVICE_PHYS)

    def _new(self):
        self._frame += 4096
        return self._frame - 4096

    def _entry(self, page):
        table = self.root
        for level in (3, 2, 1):
            where = table + 8 * (page >> 12 + 9 * level & 511)
            table = int.from_bytes(self._engine.read_mem(where, 8), "little") & ~0xFFF
            if not table:
                table = self._new()
                self._engine.write_mem(where, (table | 3).to_bytes(8, "little"))
        return table + 8 * (page >> 12 & 511)

    def _enter(self, page, frame):
        self._engine.write_mem(self._entry(page), (frame | 3).to_bytes(8, "little"))

    def _unmap(self, page):
        data = self._engine.read_mem(self.frame(page), 4096)
        self._engine.write_mem(self._entry(page), bytes(8))
        self._changed()  # whoever fetches again looks at the tables again
        return data

    def frame(self, page):
        """Return the frame of a page, or None."""
        return self.pages.get(page, self._system.get(page))

    def map(self, addr, size):
        """Map pages of zeros, where there are none."""
        for page in range(addr & -4096, addr + size, 4096):
            page &= MASK64
            if page not in self.pages:
                self.pages[page] = self._new()
                self._engine.write_mem(self.pages[page], bytes(4096))
                self._enter(page, self.pages[page])

    def map_system(self, page, frame=None):
        """Map a page that is no part of the guest of the test."""
        self._system[page] = self._new() if frame is None else frame
        self._enter(page, self._system[page])

    def _pieces(self, address, size):
        address &= MASK64
        done = 0
        while True:
            here = address + done & MASK64
            frame, n = self.frame(here & -4096), min(size - done, 4096 - here % 4096)
            if frame is None:
                raise NotMapped(f"{here:#x} is not mapped")
            yield frame + here % 4096, done, n
            done += n
            if done >= size:
                return

    def peek(self, addr, size):
        """Return bytes; a part that is not mapped is an error."""
        try:
            return self.read(addr, size)
        except NotMapped as error:
            raise GuestMemoryError(str(error)) from None

    def poke(self, addr, data):
        """Write bytes."""
        self.peek(addr, len(data))
        self.write(addr, bytes(data))

    def load(self, addr, size):
        """Return a number."""
        return int.from_bytes(self.peek(addr, size), "little")

    def store(self, addr, value, size=None):
        """Write a number; without a size, bytes (as ``GuestMemory`` has it)."""
        if size is None:
            super().store(addr, value)
        else:
            self.poke(addr, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))
