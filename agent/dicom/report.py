"""The structured report: a Comprehensive SR by template TID 1500, Measurement Report (PS3.16, Annex A)."""

from __future__ import annotations

import hashlib

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from agent import __version__
from agent.dicom.common import NOTICE, equip, made
from agent.dicom.decode import MANUFACTURER
from agent.dicom.uids import DEVICE, derived
from agent.studies import StudyResult

SCHEME = "99ALMENA"
"""Designator of this agent's own codes (PS3.16, clause 8)."""
SERIES = 9801
CHEST, ANY = ("399208008", "SCT", "Plain chest X-ray"), ("168537006", "SCT", "Plain radiography")
"""What a picture is said to be: one that no model was asked about may be of anything."""


def report(source: Dataset, result: StudyResult) -> Dataset:
    """Of one instance, `completed`: probabilities, decision or reason of abstention, and sentences. VerificationFlag is UNVERIFIED."""
    instance = str(source.SOPInstanceUID)
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                    uid=DEVICE, manufacturer_name=MANUFACTURER, model_name=result.model[:64], name="Almena"
                ),
            )
        ),
        procedure_reported=CodedConcept(*(CHEST if result.probabilities else ANY)),
        imaging_measurements=[_group(source, result)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=derived(instance, result.model, "report series"),
        series_number=SERIES,
        sop_instance_uid=derived(instance, result.model, "report"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        content_date=made(result).date(),
        content_time=made(result).time(),
        series_description="Machine findings, unverified",
    )
    equip(dataset, result)
    dataset.CompletionFlagDescription = NOTICE
    return dataset


def _group(source: Dataset, result: StudyResult) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501: what was measured of the whole image."""
    instance = str(source.SOPInstanceUID)
    decision = (
        CodedConcept(_code("class", result.decision), SCHEME, result.decision)
        if result.decision
        else CodedConcept("no-answer", SCHEME, "No answer")
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=derived(instance, result.model, "tracking"), identifier="Whole image"),
        source_images=[SourceImageForMeasurementGroup(str(source.SOPClassUID), instance)],
        measurements=[
            Measurement(
                name=CodedConcept(_code("score", label), SCHEME, f"Score of {label}"[:64]),
                value=round(float(probability), 4),
                unit=CodedConcept("1", "UCUM", "no units"),
            )
            for label, probability in result.probabilities.items()
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name=CodedConcept("classification", SCHEME, "Classification by machine"), value=decision)
        ],
        algorithm_id=AlgorithmIdentification(
            name=result.model.partition("@")[0], version=result.model.partition("@")[2] or __version__, parameters=_parameters(result)
        ),
    )
    for text in (*([result.abstained] if result.abstained else []), *result.findings, NOTICE):
        group[0].ContentSequence.append(
            TextContentItem(name=codes.DCM.Comment, value=text, relationship_type=RelationshipTypeValues.CONTAINS)
        )
    return group


def _parameters(result: StudyResult) -> list[str]:
    return [f"positive class: {result.positive}", f"threshold: {result.threshold:.4f}"]


def _code(kind: str, label: str) -> str:
    """Of a label; each has its own, though a code value has 16 characters at most (VR SH)."""
    room = 15 - len(kind)
    return f"{kind}-{label if len(label) <= room else hashlib.sha256(label.encode()).hexdigest()[:room]}"
