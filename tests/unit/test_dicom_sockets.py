"""PDUs that carry data, read without a copy."""

from __future__ import annotations

import pytest

from agent.dicom.sockets import data_pdu

pytestmark = pytest.mark.unit


def pdu(*values: bytes) -> bytearray:
    """A P-DATA-TF PDU with these values in the presentation contexts 1, 3, 5 …"""
    items = b"".join((len(value) + 1).to_bytes(4, "big") + bytes([2 * place + 1]) + value for place, value in enumerate(values))
    return bytearray(b"\x04\x00" + len(items).to_bytes(4, "big") + items)


def test_every_item_is_found_where_it_lies() -> None:
    primitive = data_pdu(pdu(b"\x00first", b"\x02second")).to_primitive()
    assert [(context, bytes(value)) for context, value in primitive.presentation_data_value_list] == [(1, b"\x00first"), (3, b"\x02second")]


@pytest.mark.parametrize("damaged", [pdu(b""), pdu(b"\x00whole")[:-1], pdu(b"\x00whole") + b"\x00\x00", pdu(b"\x00a") + bytes(4)])
def test_an_item_that_is_empty_or_ends_late_is_refused(damaged: bytearray) -> None:
    with pytest.raises(ValueError, match="an item is empty"):
        data_pdu(damaged)
