"""Identities that the devices of a site share: who is known where, boxes that only devices can open, erasures with their receipts."""
