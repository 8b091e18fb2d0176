"""Messages that are nearly right: they reach deeper into a parser than noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_OCTETS = (0x00, 0x02, 0x04, 0x05, 0x24, 0x30, 0x31, 0x80, 0x81, 0x84, 0xA0, 0xA1, 0xFF)  # tags and lengths of BER


@st.composite
def mutations(draw: st.DrawFn, seeds: Callable[[], Sequence[bytes]]) -> bytes:
    """A real message with octets changed, cut out or put in, and lengths that no longer fit."""
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("set", "flip", "cut", "insert", "copy", "end"))):
            case "set":
                data[at] = draw(st.sampled_from(_OCTETS))
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
            case "end":
                del data[at:]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
        if not data:
            break
    return bytes(data)
