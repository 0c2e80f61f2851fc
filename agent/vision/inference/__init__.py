"""Models over HTTP, in the process that owns the engines.

bytes ─► v2 / tfserving (decode) ─► Batcher ─► engines ─► v2 / tfserving (encode) ─► bytes
"""
