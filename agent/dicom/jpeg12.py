"""JPEG Extended with 12 bits (ISO/IEC 10918-1, process 4) by gdcm, which pydicom asks for 8 bits only: a decoding plug-in of pydicom."""

from __future__ import annotations

import gdcm
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES = {uid.JPEGExtended12Bit: ("python-gdcm>=3.0.24",)}
MOST_BITS = 12


def is_available(syntax: str) -> bool:
    """For that transfer syntax alone."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """The samples of a frame, 16 bits each, little endian. Raises ValueError where it is none of 9 to 12 bits, or cannot be decoded."""
    if not 8 < runner.bits_stored <= MOST_BITS or runner.bits_allocated != 16:
        raise ValueError("JPEG Extended has 8 or 12 bits")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(src)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, MOST_BITS, MOST_BITS - 1, runner.pixel_representation))
    samples: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(samples) != 2 * runner.rows * runner.columns:
        raise ValueError("gdcm cannot decode it")
    return samples
