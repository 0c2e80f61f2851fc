"""`almena demo-xray`: radiographs in, answers out, with nothing to set up.

```
clinic (its modality) ─ C-STORE ─► the agent: dicom, vision, uplink ─ C-STORE ─► clinic (its PACS) ─► results/
```
"""
