"""WGS84 to a local east-north-up frame."""

from __future__ import annotations

import numpy as np

# NIMA TR8350.2: semi-major axis, m, and flattening of the WGS84 ellipsoid.
SEMI_MAJOR_M = 6378137.0
FLATTENING = 1 / 298.257223563
_E2 = FLATTENING * (2 - FLATTENING)


def ecef_from_geodetic(geodetic: np.ndarray) -> np.ndarray:
    """Earth-centred, earth-fixed coordinates.

    Args:
        geodetic: (..., 3) latitude and longitude in degrees, altitude above the ellipsoid in m.

    Returns:
        (..., 3) m.
    """
    latitude, longitude, altitude = np.moveaxis(np.asarray(geodetic, float), -1, 0)
    latitude, longitude = np.radians(latitude), np.radians(longitude)
    sin = np.sin(latitude)
    normal = SEMI_MAJOR_M / np.sqrt(1 - _E2 * sin * sin)  # radius of curvature in the prime vertical
    ring = (normal + altitude) * np.cos(latitude)
    return np.stack(
        [ring * np.cos(longitude), ring * np.sin(longitude), (normal * (1 - _E2) + altitude) * sin], -1
    )


def enu_from_ecef(ecef: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """East, north and up of the plane that touches the ellipsoid's parallel surface at `origin`.

    Args:
        ecef: (..., 3) m. origin: (3,) latitude and longitude in degrees, altitude in m.

    Returns:
        (..., 3) m.
    """
    return (np.asarray(ecef, float) - ecef_from_geodetic(origin)) @ enu_axes(origin).T


def enu_from_geodetic(geodetic: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """As `enu_from_ecef`, of (..., 3) latitude and longitude in degrees, altitude in m."""
    return enu_from_ecef(ecef_from_geodetic(geodetic), origin)


def enu_axes(origin: np.ndarray) -> np.ndarray:
    """(3, 3): the rows are east, north and up at (latitude, longitude, ...) in degrees, in ECEF axes."""
    latitude, longitude = np.radians(origin[0]), np.radians(origin[1])
    (sin, cos), (s, c) = (np.sin(latitude), np.cos(latitude)), (np.sin(longitude), np.cos(longitude))
    return np.array([[-s, c, 0.0], [-sin * c, -sin * s, cos], [cos * c, cos * s, sin]])


def geodetic_from_ecef(ecef: np.ndarray) -> np.ndarray:
    """The inverse of `ecef_from_geodetic`, by Bowring's formula (Survey Review 23, 1976).

    Two rounds leave less than a micrometre anywhere from 1 km below the ground to low orbits.

    Args:
        ecef: (..., 3) m.

    Returns:
        (..., 3) latitude and longitude in degrees, altitude in m.
    """
    x, y, z = np.moveaxis(np.asarray(ecef, float), -1, 0)
    ring, minor = np.hypot(x, y), SEMI_MAJOR_M * (1 - FLATTENING)
    reduced = np.arctan2(z * SEMI_MAJOR_M, ring * minor)
    for _ in range(2):
        latitude = np.arctan2(
            z + _E2 / (1 - _E2) * minor * np.sin(reduced) ** 3,
            ring - _E2 * SEMI_MAJOR_M * np.cos(reduced) ** 3,
        )
        reduced = np.arctan2((1 - FLATTENING) * np.sin(latitude), np.cos(latitude))
    sin = np.sin(latitude)
    # Along the normal: without a division by a cosine, which the poles would make 0.
    altitude = ring * np.cos(latitude) + z * sin - SEMI_MAJOR_M * np.sqrt(1 - _E2 * sin * sin)
    return np.stack([np.degrees(latitude), np.degrees(np.arctan2(y, x)), altitude], -1)


def geodetic_from_enu(enu: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The inverse of `enu_from_geodetic`: (..., 3) m to latitude and longitude in degrees, altitude in m."""
    return geodetic_from_ecef(np.asarray(enu, float) @ enu_axes(origin) + ecef_from_geodetic(origin))
