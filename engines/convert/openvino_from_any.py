"""OpenVINO's intermediate representation, of whatever OpenVINO reads."""

from __future__ import annotations

from pathlib import Path

import openvino as ov
from openvino.tools.ovc import convert_model

from engines.card import IR
from engines.errors import ModelFileError, said


class OpenVinoFromAny:
    """`openvino.convert_model`, weights in float32."""

    def convert(self, source: Path, target: Path) -> None:
        """Write the folder `target` with model.xml and model.bin. Raises ModelFileError."""
        try:
            model = convert_model(str(source))
        except (RuntimeError, ov.frontend.OpConversionFailure) as error:
            raise ModelFileError(f"{source.name}: OpenVINO {ov.get_version()} cannot convert it: {said(error)}") from error
        target.mkdir()
        ov.save_model(model, target / IR, compress_to_fp16=False)
