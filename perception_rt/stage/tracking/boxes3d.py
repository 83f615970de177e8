"""Kalman filters of many boxes on the ground at once: struct of arrays, one NumPy call for all tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from perception_rt.stage.tracking.config import Motion3D

STATE = 6  # x y yaw vx vy yaw_rate
MEASURED = 3  # the first three
EYE = np.eye(STATE)
SLOW = 4  # z length width height, filtered one by one
STRAIGHT = 1e-6  # rad/s, below which a turn is a straight line
TURN_RATE_SD = 0.5  # rad/s, of a new track that can turn
SURE_HEADING = 5.0  # votes that a heading can collect
UNLIKE = 6.0  # that another class costs: three of sizes that are not compared, and one name in five
LATELY_S = 2.0  # time constant of the mean place
STANDING_SPEED = 0.3  # m/s
SIZE_DRIFT = 0.05  # m/sqrt(s): a size hardly changes, but what is seen of it does


class BoxFilters3D:
    """State and covariance of every track.

    The state is x y yaw vx vy yaw_rate. Where the class turns, the velocity turns with the yaw rate (the
    coordinated turn with Cartesian velocity; Bar-Shalom, Li, Kirubarajan: Estimation with Applications to
    Tracking and Navigation, 11.7), as an extended Kalman filter with exact discretisation: unlike with speed
    along the heading, boxes may move in any direction, so that it holds in a sensor's frame without odometry
    too. Otherwise the velocity is constant and the heading a random walk. z and the sizes are random walks.

    Args:
        motions: by label.
    """

    distance_degrees = 2 + SLOW

    def __init__(self, motions: Sequence[Motion3D]) -> None:
        def by_label(of: Callable[[Motion3D], float | list[float]]) -> np.ndarray:
            return np.array([of(motion) for motion in motions])

        self._turns = by_label(lambda m: m.turns)
        start = by_label(
            lambda m: [m.position_sd, m.position_sd, m.yaw_sd, m.speed, m.speed, TURN_RATE_SD * m.turns]
        )
        self._start = start[:, :, None] ** 2 * EYE
        self._noise = self._start[:, :MEASURED, :MEASURED]
        self._slow_noise = by_label(lambda m: [m.height_sd, m.size_sd, m.size_sd, m.size_sd]) ** 2
        self._slow_drift = by_label(lambda m: [m.drift, SIZE_DRIFT, SIZE_DRIFT, SIZE_DRIFT]) ** 2
        self._process = _process_noise(motions)
        self.mean, self.covariance = np.zeros((0, STATE)), np.zeros((0, STATE, STATE))
        self.slow, self._slow_variance = np.zeros((0, SLOW)), np.zeros((0, SLOW))
        self._votes = np.zeros(0)
        self._lately = np.zeros((0, 2))

    def predict(self, dt: float, labels: np.ndarray) -> None:
        """Bring every track forward by `dt` s; labels: (T,) of the tracks, here and below."""
        turns = self._turns[labels]
        rate = np.where(turns & (np.abs(self.mean[:, 5]) > STRAIGHT), self.mean[:, 5], STRAIGHT)
        sin, cos = np.sin(rate * dt), np.cos(rate * dt)
        along, across = sin / rate, 2 * np.sin(rate * dt / 2) ** 2 / rate
        vx, vy = self.mean[:, 3], self.mean[:, 4]
        move = np.broadcast_to(EYE, self.covariance.shape).copy()
        move[:, 0, 3] = move[:, 1, 4] = along
        move[:, 1, 3] = across
        move[:, 0, 4] = -across
        move[:, 2, 5] = turns * dt
        move[:, 3, 3] = move[:, 4, 4] = cos
        move[:, 4, 3] = sin
        move[:, 3, 4] = -sin
        mean = (move @ self.mean[:, :, None])[:, :, 0]
        # What the end of the step owes to the yaw rate: the Jacobian's last column.
        d_along, d_across = turns * (dt * cos - along) / rate, turns * (dt * sin - across) / rate
        move[:, 0, 5] = d_along * vx - d_across * vy
        move[:, 1, 5] = d_across * vx + d_along * vy
        move[:, 3, 5] = -dt * turns * mean[:, 4]
        move[:, 4, 5] = dt * turns * mean[:, 3]
        self.mean = mean
        noise = sum((dt**power * factor for power, factor in self._process.items()), np.zeros(()))
        self.covariance = move @ self.covariance @ move.transpose(0, 2, 1) + noise[labels]
        self._slow_variance = self._slow_variance + self._slow_drift[labels] * dt
        self._lately = self._lately + (1 - np.exp(-dt / LATELY_S)) * (mean[:, :2] - self._lately)

    def distances(
        self, measured: np.ndarray, labels: np.ndarray, stated: np.ndarray, alike: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Squared Mahalanobis distances of (D, 7) boxes: position and size, not yaw, which may be reversed.

        Args:
            measured: the boxes. labels: (T,) of the tracks.
            stated: (D, 3, 3) covariance of x y yaw that comes on top of the class's.
            alike: (T, D) bool, of one class; of others, sizes are not compared, and the feet are instead of
                the middles.

        Returns:
            (T, D) distances and (T, D) log determinants of the innovation covariances, more by `UNLIKE`
            for another class.
        """
        noise = self._noise[labels]
        sxx = (self.covariance[:, 0, 0] + noise[:, 0, 0])[:, None] + stated[:, 0, 0]
        syy = (self.covariance[:, 1, 1] + noise[:, 1, 1])[:, None] + stated[:, 1, 1]
        sxy = self.covariance[:, 0, 1][:, None] + stated[:, 0, 1]
        determinant = sxx * syy - sxy * sxy
        dx = measured[None, :, 0] - self.mean[:, 0:1]
        dy = measured[None, :, 1] - self.mean[:, 1:2]
        ground = syy * dx * dx - 2 * sxy * dx * dy + sxx * dy * dy
        variance = self._slow_variance + self._slow_noise[labels]
        slow = measured[None, :, 2:6] - self.slow[:, None]
        terms = slow * slow / variance[:, None]
        rest, spread = terms.sum(2), np.log(determinant) + np.log(variance).sum(1)[:, None]
        if not alike.all():
            foot = slow[..., 0] - slow[..., 3] / 2
            feet = foot * foot / (variance[:, 0] + variance[:, 3] / 4)[:, None]
            rest, spread = np.where(alike, rest, feet), spread + UNLIKE * ~alike
        return ground / determinant + rest, spread

    def update(
        self,
        rows: np.ndarray,
        measured: np.ndarray,
        labels: np.ndarray,
        stated: np.ndarray | float = 0.0,
        alike: np.ndarray | bool = True,
    ) -> None:
        """Correct the tracks `rows` (P,), whose labels are given, by (P, 7) boxes, one each.

        `stated` (P, 3, 3) comes on top of the class's noise; boxes of another class, where `alike` (P,) is
        false, say where the foot is, and nothing of the size.
        """
        mean, covariance = self.mean[rows], self.covariance[rows]
        noise = self._noise[labels] + stated
        innovation = measured[:, (0, 1, 6)] - mean[:, :MEASURED]
        innovation[:, 2], reverse = self._without_reversal(rows, innovation[:, 2])
        mean[:, 2] += np.pi * reverse
        cross = covariance[:, :, :MEASURED]
        gain = cross @ np.linalg.inv(covariance[:, :MEASURED, :MEASURED] + noise)
        self.mean[rows] = mean + (gain @ innovation[:, :, None])[:, :, 0]
        # Joseph's form: stays symmetric and positive definite.
        keep = np.broadcast_to(EYE, covariance.shape).copy()
        keep[:, :, :MEASURED] -= gain
        corrected = keep @ covariance @ keep.transpose(0, 2, 1) + gain @ noise @ gain.transpose(0, 2, 1)
        self.covariance[rows] = corrected
        variance = self._slow_variance[rows]
        weight = variance / (variance + self._slow_noise[labels])
        weight[:, 1:] *= np.reshape(alike, (-1, 1))
        slow = measured[:, 2:6] - self.slow[rows]
        slow[:, 0] -= np.where(alike, 0, slow[:, 3] / 2)
        self.slow[rows] += weight * slow
        self._slow_variance[rows] = variance * (1 - weight)

    def _without_reversal(self, rows: np.ndarray, dyaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Yaw innovations to the nearer end of the box; which end is the front is put to the vote.

        Returns:
            (P,) innovations, and (P,) bool: the vote has turned against the front that the track has.
        """
        turn = np.pi * np.round(dyaw / np.pi)
        agree = np.cos(turn)  # 1: the front where the track has it, -1: reversed
        votes = np.minimum(self._votes[rows] + agree, SURE_HEADING)
        self._votes[rows] = np.abs(votes)
        return dyaw - turn, votes < 0

    def append(self, measured: np.ndarray, labels: np.ndarray, stated: np.ndarray | float = 0.0) -> None:
        """Begin a track at each of (M, 7) boxes, at rest; `stated` (M, 3, 3) as of `update`."""
        mean = np.zeros((len(measured), STATE))
        mean[:, :MEASURED] = measured[:, (0, 1, 6)]
        self.mean = np.concatenate((self.mean, mean))
        start = self._start[labels]
        start[:, :MEASURED, :MEASURED] += stated
        self.covariance = np.concatenate((self.covariance, start))
        self.slow = np.concatenate((self.slow, measured[:, 2:6]))
        self._slow_variance = np.concatenate((self._slow_variance, self._slow_noise[labels]))
        self._votes = np.concatenate((self._votes, np.ones(len(labels))))
        self._lately = np.concatenate((self._lately, mean[:, :2]))

    def take_size(self, rows: np.ndarray, measured: np.ndarray, labels: np.ndarray) -> None:
        """The tracks `rows` (P,) are of a new class: they have the sizes of these (P, 7) boxes."""
        self.slow[rows, 0] += (measured[:, 5] - self.slow[rows, 3]) / 2
        self.slow[rows, 1:] = measured[:, 3:6]
        self._slow_variance[rows, 1:] = self._slow_noise[labels, 1:]

    def stand(self) -> np.ndarray:
        """(T,) bool: slower than `STANDING_SPEED`, by how far each is from where it was lately."""
        return np.hypot(*(self.mean[:, :2] - self._lately).T) < STANDING_SPEED * LATELY_S

    def park(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """The tracks `rows` (P,) stand where they are, as sure of it as a new track is."""
        self.mean[rows, MEASURED:] = 0
        self.covariance[rows] = self._start[labels]
        self._slow_variance[rows] = self._slow_noise[labels]

    def keep(self, mask: np.ndarray) -> None:
        """Drop the tracks where `mask` (T,) is false."""
        self.mean, self.covariance = self.mean[mask], self.covariance[mask]
        self.slow, self._slow_variance = self.slow[mask], self._slow_variance[mask]
        self._votes, self._lately = self._votes[mask], self._lately[mask]

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """(P, 7) float32 xyzlwh_yaw of the tracks `rows`."""
        boxes = np.empty((len(rows), 7), np.float32)
        mean = self.mean[rows]
        boxes[:, :2] = mean[:, :2]
        boxes[:, 2:6] = self.slow[rows]
        boxes[:, 6] = (mean[:, 2] + np.pi) % (2 * np.pi) - np.pi
        return boxes


def _process_noise(motions: Sequence[Motion3D]) -> dict[int, np.ndarray]:
    """Process noise as powers of dt, each with its (L, 6, 6) factors: acceleration constant over the step."""
    factors = {power: np.zeros((len(motions), STATE, STATE)) for power in (1, 2, 3, 4)}
    for label, motion in enumerate(motions):
        pairs = [(0, 3, motion.acceleration**2), (1, 4, motion.acceleration**2)]
        if motion.turns:
            pairs.append((2, 5, motion.turning**2))
        else:
            factors[1][label, 2, 2] = motion.turning**2
        for at, rate, variance in pairs:
            factors[4][label, at, at] = variance / 4
            factors[3][label, at, rate] = factors[3][label, rate, at] = variance / 2
            factors[2][label, rate, rate] = variance
    return factors
