"""A frontal chest phantom: the radiograph of a body made of ellipsoids, ribs and a spine. It is nobody's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

ROWS, COLUMNS = 800, 680
HEIGHT_CM, WIDTH_CM = 40.0, 34.0
SOFT, LUNG, BONE = 0.19, 0.05, 0.50
"""Attenuation per centimetre, about that of soft tissue, lung and bone at 100 kV."""
RIBS = 9
BITS = 12


def chest_phantom(seed: int = 0) -> NDArray[np.uint16]:
    """(800, 680) of 12 bits, 4095 where nothing passed: thicknesses in centimetres, Beer and Lambert's law, quantum noise."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    x, y = (x + 0.5) / COLUMNS * WIDTH_CM - WIDTH_CM / 2, (y + 0.5) / ROWS * HEIGHT_CM
    lungs = _lungs(x, y)
    outline = np.maximum(_ellipsoid(x, y, 0, 26, 15.5, 24, 20), _ellipsoid(x, y, 0, 6, 15, 5.5, 11))
    body = np.maximum(outline, _ellipsoid(x, y, 0, 0, 5.2, 9, 11))
    heart = _ellipsoid(x, y, 1.6, 23.5, 6.2, 6.8, 9)
    vessels = 1.5 * np.exp(-((np.abs(x) / 2.6) ** 2) - ((y - 18) / 4.5) ** 2)
    bones = np.where(body > 0, _ribs(x, y) + _spine(x, y) + _clavicles(x, y), 0)
    air = np.maximum(lungs - heart - vessels, 0)
    attenuation = SOFT * (body - air) + LUNG * air + (BONE - SOFT) * bones
    passed = np.exp(-attenuation)
    random = np.random.default_rng(seed)
    passed *= 1 + 0.004 * random.standard_normal(passed.shape, np.float32) / np.sqrt(passed / passed.max() + 1e-3)
    density = -np.log(np.clip(passed, 1e-6, 1))
    low, high = np.quantile(density, (0.001, 0.999))
    return np.asarray(np.rint(np.clip((density - low) / (high - low), 0, 1) * ((1 << BITS) - 1)), np.uint16)


def _ellipsoid(x: F32, y: F32, across: float | F32, down: float, wide: float, tall: float, deep: float) -> F32:
    """Its thickness along the ray: middle and half axes in centimetres."""
    return np.asarray(deep * np.sqrt(np.clip(1 - ((x - across) / wide) ** 2 - ((y - down) / tall) ** 2, 0, None)))


def _lungs(x: F32, y: F32) -> F32:
    """Two lungs that end at domes of the diaphragm, the right one higher."""
    thickness = np.zeros_like(x)
    for side, dome in ((-1, 29.5), (1, 31.0)):
        middle = side * 7.4
        lung = _ellipsoid(x, y, np.asarray(middle - side * 0.9 * np.clip((14 - y) / 10, 0, 1), np.float32), 20.5, 6.1, 14.5, 15)
        floor = dome + 0.055 * (x - middle + side * 1.2) ** 2
        thickness += lung * np.clip((floor - y) / 0.5, 0, 1)
    return thickness


def _ribs(x: F32, y: F32) -> F32:
    """Posterior parts fall to the outside, anterior ones cross them more steeply."""
    thickness = np.zeros_like(x)
    away = np.abs(x)
    for number in range(RIBS):
        start = 8.0 + 2.6 * number
        reach = 9.0 + 0.55 * number
        inside = np.clip((reach + 3 - away) / 1.0, 0, 1) * np.clip((away - 1.5) / 0.7, 0, 1)
        back = start - 1.4 + 0.20 * away + 0.012 * away**2
        front = start + 7.5 - 0.10 * away - 0.03 * away**2
        thickness += 0.55 * inside * np.exp(-(((y - back) / 0.45) ** 4))
        thickness += 0.28 * inside * np.clip((away - 3.5) / 1.5, 0, 1) * np.exp(-(((y - front) / 0.5) ** 4))
    return thickness


def _spine(x: F32, y: F32) -> F32:
    """Vertebrae with discs between them."""
    bodies = 0.8 + 0.2 * np.tanh(6 * np.sin(2 * np.pi * y / 2.6))
    return np.asarray(2.6 * bodies * np.sqrt(np.clip(1 - (x / 1.9) ** 2, 0, None)))


def _clavicles(x: F32, y: F32) -> F32:
    away = np.abs(x)
    shaft = 8.3 - 0.14 * away + 0.35 * np.sin(away / 2.6)
    return np.asarray(0.9 * np.clip((away - 1.6) / 0.5, 0, 1) * np.clip((13.5 - away) / 0.8, 0, 1) * np.exp(-(((y - shaft) / 0.6) ** 4)))
