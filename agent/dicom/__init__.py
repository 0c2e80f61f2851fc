"""The DICOM process: receives radiographs, makes pictures of them, and answers with reports. It has no engine and no gallery.

```
C-STORE, STOW-RS, folder ─► Intake ─► inbox/ ─► Decoder (a process of its own) ─► pictures/ ─► the vision process
                                        └──────────────┬───────────────────────── results/ ◄──┘
                                                     Sender ─► report and heat map to the PACS
```
"""
