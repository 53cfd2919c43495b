"""The objects on the table, and the light on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from . import textures
from .meshes import Array, Mesh, box, cylinder, merge, revolved, sphere, torus

BACKDROP_RADIUS = 7.0
KEY_LIGHT = np.array([2.6, -2.2, 4.2])  # centre of a round lamp
KEY_LIGHT_RADIUS = 0.55
KEY_COLOR = np.array([1.0, 0.93, 0.82]) * 0.95
SKY_COLOR = np.array([0.62, 0.70, 0.82])
GROUND_COLOR = np.array([0.30, 0.27, 0.22])
LIGHT_SAMPLES = 48
SKY_SAMPLES = 64
SKY_REACH = 1.2  # how far away something still takes sky light from a point

BOOK_SIZES = ((0.56, 0.40, 0.09), (0.44, 0.32, 0.07))


def objects() -> list[tuple[Mesh, textures.Texture, float]]:
    """(mesh, texture, strength of the highlight) of every object."""
    height = np.linspace(0, 0.75, 60)
    vase = revolved(0.12 + 0.085 * np.sin(height * 7.2) + 0.05 * height, height)
    mouth = revolved(np.linspace(0.13, 1e-4, 6), np.full(6, 0.73))
    cone = revolved(np.linspace(0.27, 1e-3, 40), np.linspace(0, 0.62, 40))
    return [
        (cylinder(1.5, 0.1, rings=100, segments=200).placed((0, 0, -0.1)), textures.wood, 0.0),
        (cylinder(0.2, 0.12).placed((-0.1, 0.15, 0)), textures.stone, 0.0),
        (sphere(0.42).placed((-0.1, 0.15, 0.52), 40, 20), textures.globe, 0.12),
        (torus(0.3, 0.12).placed((0.8, -0.15, 0.12), 15), textures.candy, 0.12),
        (box((0.44, 0.44, 0.44)).placed((-0.82, -0.45, 0), 28), textures.marble, 0.05),
        (sphere(0.13, 40).placed((-0.82, -0.45, 0.57)), textures.orange, 0.06),
        (merge([vase, mouth]).placed((0.55, 0.75, 0)), textures.glaze, 0.12),
        (cone.placed((-0.8, 0.75, 0)), textures.harlequin, 0.04),
        (box(BOOK_SIZES[0]).placed((0.05, -0.85, 0), -18), textures.book("23527c", BOOK_SIZES[0]), 0.0),
        (box(BOOK_SIZES[1]).placed((0.07, -0.85, 0.09), 14), textures.book("8c2f39", BOOK_SIZES[1]), 0.0),
    ]


@dataclass
class Hits:
    """The points (N, 3) at which rays meet the scene, and their colors (N, 3), linear RGB, as seen along the rays."""

    points: Array
    colors: Array


class StillLife:
    """The scene, prepared for ray casting; light that does not depend on the view is computed once, at the vertices."""

    def __init__(self, seed: int = 0) -> None:
        self._noise = textures.Noise(seed)
        parts = objects()
        self._textures = [texture for _, texture, _ in parts]
        self._gloss = np.array([gloss for _, _, gloss in parts])
        self._mesh = merge([mesh for mesh, _, _ in parts])
        self._object_of_triangle = np.repeat(np.arange(len(parts)), [len(mesh.triangles) for mesh, _, _ in parts])
        self._caster = o3d.t.geometry.RaycastingScene()
        self._caster.add_triangles(self._mesh.points.astype(np.float32), self._mesh.triangles.astype(np.uint32))
        self._light = self._vertex_light(np.random.default_rng(seed))

    def look(self, origin: Array, directions: Array) -> Hits:
        """The points and colours that are seen from `origin` (3,) along unit `directions` (N, 3)."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], axis=1).astype(np.float32)
        answer = self._caster.cast_rays(o3d.core.Tensor(rays))
        distance = answer["t_hit"].numpy().astype(np.float64)
        seen = np.isfinite(distance)
        along = np.dot(directions, origin)
        to_backdrop = np.sqrt(along**2 - origin @ origin + BACKDROP_RADIUS**2) - along
        points = origin + np.where(seen, distance, to_backdrop)[:, None] * directions
        colors = np.empty_like(points)
        colors[~seen] = textures.surroundings(points[~seen] / BACKDROP_RADIUS, self._noise)
        triangle = answer["primitive_ids"].numpy()[seen].astype(np.int64)
        colors[seen] = self._shade(triangle, answer["primitive_uvs"].numpy()[seen], points[seen], directions[seen])
        return Hits(points, np.clip(colors, 0, 1))

    def _shade(self, triangle: NDArray[np.int64], uv: NDArray[np.float32], points: Array, directions: Array) -> Array:
        weights = np.concatenate([1 - uv.sum(axis=1, keepdims=True), uv], axis=1)[:, :, None]
        corners = self._mesh.triangles[triangle]

        def interpolated(values: Array) -> Array:
            return (values[corners] * weights).sum(axis=1)

        which = self._object_of_triangle[triangle]
        local = interpolated(self._mesh.local)
        albedo = np.empty_like(points)
        for index in np.unique(which):
            albedo[which == index] = self._textures[index](local[which == index], self._noise)
        light = interpolated(self._light)
        to_lamp = KEY_LIGHT - points
        half = to_lamp / np.linalg.norm(to_lamp, axis=1, keepdims=True) - directions
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        facing = np.clip((interpolated(self._mesh.normals) * half).sum(axis=1), 0, 1)
        highlight = self._gloss[which] * facing**24 * light[:, 3]
        return albedo * light[:, :3] + highlight[:, None]

    def _vertex_light(self, generator: np.random.Generator) -> Array:
        """(V, 4): the light that falls on each vertex, RGB, and the part of the lamp that it sees."""
        points, normals = self._mesh.points, self._mesh.normals
        lifted = points + 2e-3 * normals
        lamp = np.zeros(len(points))
        golden = np.pi * (3 - np.sqrt(5))
        right = np.cross(KEY_LIGHT, [0, 0, 1])
        right /= np.linalg.norm(right)
        above = np.cross(right, KEY_LIGHT) / np.linalg.norm(KEY_LIGHT)
        for index in range(LIGHT_SAMPLES):
            reach = KEY_LIGHT_RADIUS * np.sqrt((index + 0.5) / LIGHT_SAMPLES)
            spot = KEY_LIGHT + reach * (np.cos(golden * index) * right + np.sin(golden * index) * above)
            lamp += ~self._blocked(lifted, spot - lifted, 1.0) / LIGHT_SAMPLES

        tangent = np.cross(normals, np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]]))
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        bitangent = np.cross(normals, tangent)
        sky = np.zeros((len(points), 3))
        turn = generator.uniform(0, 2 * np.pi, len(points))[:, None]
        for index in range(SKY_SAMPLES):
            radius = np.sqrt((index + 0.5) / SKY_SAMPLES)
            angle = golden * index + turn
            way = radius * (np.cos(angle) * tangent + np.sin(angle) * bitangent) + np.sqrt(1 - radius**2) * normals
            color = textures.mix(GROUND_COLOR, SKY_COLOR, 0.5 + way[:, 2])
            sky += color * ~self._blocked(lifted, way, SKY_REACH)[:, None] / SKY_SAMPLES

        to_lamp = KEY_LIGHT - points
        to_lamp /= np.linalg.norm(to_lamp, axis=1, keepdims=True)
        facing = np.clip((normals * to_lamp).sum(axis=1), 0, 1)
        return np.concatenate([sky + (lamp * facing)[:, None] * KEY_COLOR, lamp[:, None]], axis=1)

    def _blocked(self, origins: Array, ways: Array, reach: float) -> NDArray[np.bool_]:
        """(N,): whether something lies between `origins` and `origins + reach * ways`, both (N, 3)."""
        rays = np.concatenate([origins, ways], axis=1).astype(np.float32)
        return self._caster.test_occlusions(o3d.core.Tensor(rays), tnear=0.0, tfar=reach).numpy()
