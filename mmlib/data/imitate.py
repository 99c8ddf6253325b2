"""Photographs and scans imitated from drawings, to measure and to train by: the truth is known."""

import numpy as np


def imitate(levels: np.ndarray, rng: np.random.Generator, shade: float = 0.5, rules: bool = True,
            tilt: float = 0.06, perspective: float = 0.08) -> np.ndarray:
    """A photograph (h, w) uint8 of a drawing, to measure cleaning by: the truth is then known.

    levels: (H, W) uint8, 255 = ink. The paper is lit from one side (`shade`: the light lost on the
    far side), ruled, tilted (radians), seen at an angle, a little blurred and noisy.
    """
    from skimage.filters import gaussian
    from skimage.transform import ProjectiveTransform, warp

    margin = round(0.25 * levels.shape[0] + 0.05 * levels.shape[1])
    dark = 0.8 * np.pad(levels.astype(float) / 255, margin)
    h, w = dark.shape
    if rules:
        step = max(24, round(h / rng.uniform(4, 6)))
        for y in range(rng.integers(step), h, step):
            dark[y : y + 2] = np.maximum(dark[y : y + 2], 0.35)
    c, s = np.cos(tilt), np.sin(tilt)
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], float)
    middle = corners.mean(0)
    moved = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    moved += rng.uniform(-1, 1, moved.shape) * perspective * h / 2
    matrix = ProjectiveTransform.from_estimate(moved, corners)
    dark = warp(dark, matrix, output_shape=(h, w), cval=0.0)
    across, down = np.meshgrid(np.linspace(-1, 1, w), np.linspace(-1, 1, h))
    turn = rng.uniform(0, 2 * np.pi)
    light = 1 - shade * (1 + np.cos(turn) * across / 1.5 + np.sin(turn) * down / 1.5) / 2
    seen = 235 * light * (1 - gaussian(dark, 1.0)) + rng.normal(0, 4.0, dark.shape)
    grey: np.ndarray = np.clip(seen, 0, 255).astype(np.uint8)
    return grey


def on_paper(ink: np.ndarray, rng: np.random.Generator, paper: float = 235, pen: float = 40,
             grain: float = 4, light: np.ndarray | float = 1.0) -> np.ndarray:
    """Grey (H, W) uint8 of ink (0 to 1) in grey `pen` on grey `paper`, lit and seen by a camera."""
    from scipy import ndimage

    seen = (paper + (pen - paper) * ndimage.gaussian_filter(ink, 0.8)) * light
    return np.asarray(np.clip(seen + rng.normal(0, grain, ink.shape), 0, 255), np.uint8)


def falling(shape: tuple[int, ...], rng: np.random.Generator, share: float) -> np.ndarray:
    """Light (H, W) that falls off to one side, by a share."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-0.7, 0.7, side) for side in shape)
    light = np.cos(turn) * x[None] + np.sin(turn) * y[:, None]
    return np.asarray(1 - share * (0.5 + 0.5 * light))
