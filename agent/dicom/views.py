"""What the tags say of a radiograph's view and body part, in words of the standard only: free text never leaves the data set."""

from __future__ import annotations

from pydicom.dataset import Dataset

OTHER = "OTHER"
VIEWS = ("PA", "AP", "LL", "RL", "RLD", "LLD", "RLO", "LLO")
"""Defined terms of View Position (PS3.3, C.8.1.1.1.2 and C.8.11.5)."""
VIEW_CODES = {
    "R-10206": "AP", "399348003": "AP", "R-10214": "PA", "272479007": "PA", "R-10236": "LL", "399173006": "LL", "R-10232": "RL",
    "399198007": "RL", "R-10228": "LLD", "399132003": "LLD", "R-10224": "RLD", "399356008": "RLD",
}  # fmt: skip
"""Codes of context group 4010 (PS3.16)."""
FRONTAL = ("PA", "AP")
CHEST_CODES = ("T-D3000", "51185008", "T-28000", "39607008")
"""Chest and lung in context group 4031 (PS3.16), by SRT and SNOMED CT."""
CHEST = ("CHEST", "THORAX")
PARTS = (
    *CHEST, "ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND",
    "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "RIB", "SHOULDER", "SKULL", "SPINE", "SSPINE", "TSPINE",
    "WRIST",
)  # fmt: skip
"""Defined terms of Body Part Examined (PS3.16, Annex L) that a radiograph has."""
MODALITIES = ("CR", "DX", "RG", "OT", "SC", "CT", "MR", "US", "MG", "NM", "PT", "XA", "RF", "IO", "PX", "ES", "XC")
RADIOGRAPHS = ("CR", "DX", "RG", "OT", "SC", "")
"""Modalities of which a data set of the accepted storage classes may be a radiograph."""


def view(dataset: Dataset) -> str:
    """One of VIEWS, OTHER, or "" where no tag says it."""
    for item in dataset.get("ViewCodeSequence") or ():
        if found := VIEW_CODES.get(str(item.get("CodeValue", ""))):
            return found
    return _term(dataset.get("ViewPosition"), VIEWS)


def body_part(dataset: Dataset) -> str:
    """One of PARTS, OTHER, or ""."""
    return _term(dataset.get("BodyPartExamined"), PARTS)


def laterality(dataset: Dataset) -> str:
    """L, R, B, U, OTHER, or ""."""
    return _term(dataset.get("ImageLaterality") or dataset.get("Laterality"), ("L", "R", "B", "U"))


def modality(dataset: Dataset) -> str:
    """One of MODALITIES, OTHER, or ""."""
    return _term(dataset.get("Modality"), MODALITIES)


def note(dataset: Dataset) -> str:
    """Why this is no frontal chest radiograph by its tags; "" if they do not say so."""
    if (found := modality(dataset)) not in RADIOGRAPHS:
        return f"modality {found} is not radiography"
    if (found := body_part(dataset)) and found not in CHEST:
        return f"body part {found} is not the chest" if found != OTHER else "the body part is not the chest"
    regions = [str(item.get("CodeValue", "")) for item in dataset.get("AnatomicRegionSequence") or ()]
    if not found and any(regions) and not set(regions) & set(CHEST_CODES):
        return "the body part is not the chest"
    if (found := view(dataset)) and found not in FRONTAL:
        return f"view {found} is not frontal" if found != OTHER else "the view is not frontal"
    if not found and str((dataset.get("PatientOrientation") or [""])[0])[:1] in ("A", "P"):
        return "the view is not frontal"  # its rows run from front to back, or the other way (PS3.3, C.7.6.1.1.1)
    return ""


def _term(value: object, terms: tuple[str, ...]) -> str:
    word = str(value or "").strip().upper()
    return word if word in terms or not word else OTHER
