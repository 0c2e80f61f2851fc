"""Identities shared by the devices of a site: what travels, sealed by one device for another, over the hub's door.

gallery ─► seal ─► uplink ─► door ─► hub keeps boxes that it cannot open ─► door ─► uplink ─► open ─► gallery
"""
