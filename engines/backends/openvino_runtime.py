"""OpenVINO without its model converter, which `import openvino` brings along: that takes as long as all the rest, and no engine needs it.

Who does need it imports openvino.tools.ovc.
"""

from __future__ import annotations

import sys

_CONVERTER = "openvino.tools.ovc"
_skipped = "openvino" not in sys.modules
if _skipped:
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the import of it fails, which OpenVINO takes as: not installed

try:
    import openvino as ov
finally:
    if _skipped:
        del sys.modules[_CONVERTER]

__all__ = ["ov"]
