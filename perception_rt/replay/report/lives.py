"""The life of each tracked object: its times, sensors and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec import decode_named_detections3d
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import is_static
from perception_rt.replay.report import svg
from perception_rt.replay.report.box_statistics import FUSED, TRACKS, kinds_of
from perception_rt.replay.score.places import TRANSFORMS
from perception_rt.stage.transforms import TransformBuffer, transform
from perception_rt.types import Detections3D, TransformError

MOST = 40
"""Number of objects on the page, the longest-lived ones."""
MOST_PREDICTIONS = 8
SAME_M = 1.0
"""Maximum distance between the centres of a fused object and its track."""
CONTINUED_NS, CONTINUED_M = 2_000_000_000, 3.0
"""Maximum time and distance from the end of a track to another that may continue it."""
SPEED_NS = 500_000_000
HORIZONS_S = (1.0, 3.0)
_MOST_TRACKS = 20_000
_TF_AHEAD_NS = 200_000_000


@dataclass(slots=True)
class ObjectLife:
    """One track.

    Attributes:
        id: of the track. frame_id: of its places. names, sources: class and sensors of each message; no
            sensors if no fused object was near.
        stamps_ns: stamps of the messages. places: (x, y) of each, m. sizes: (length, width) of each, m.
        predictions: of each its stamp, ns, the predicted times, ns, and (T, 2) positions, m.
        continues: the id of the track that this one may continue.
    """

    id: str
    frame_id: str
    names: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)
    predictions: list[tuple[int, Sequence[int], np.ndarray]] = field(default_factory=list)
    continues: str = ""

    @property
    def name(self) -> str:
        """The most frequent class."""
        return Counter(self.names).most_common(1)[0][0]

    def speeds(self) -> np.ndarray:
        """Return (N,) m/s over about half a second before each message; NaN for the first ones."""
        times, places = np.array(self.stamps_ns), np.array(self.places)
        before = np.searchsorted(times, times - SPEED_NS, side="left")
        seconds = (times - times[before]) / 1e9
        way = np.hypot(*(places - places[before]).T)
        return np.where(seconds >= SPEED_NS / 2e9, way / np.maximum(seconds, 1e-9), np.nan)

    def errors_m(self, ahead_s: float) -> np.ndarray:
        """Return the distances of predictions from the later positions of the track, m."""
        times, places = np.array(self.stamps_ns), np.array(self.places)
        found = []
        for made_ns, moments, way in self.predictions:
            at_ns = made_ns + round(ahead_s * 1e9)
            near = [k for k, moment in enumerate(moments) if abs(moment - at_ns) < 50_000_000]
            if near and at_ns <= times[-1]:
                there = [np.interp(at_ns, times, places[:, axis]) for axis in (0, 1)]
                found.append(float(np.hypot(*(way[near[0]] - there))))
        return np.array(found)


def read_lives(recording: Bag, outputs: Bag, metrics: Mapping[str, Any]) -> list[ObjectLife]:
    """Return the tracks of the first tracker of objects in space, the longest lives first.

    Args:
        recording: for /tf between the frames of fusion and tracker. outputs: bag of the run.
        metrics: content of metrics.json.

    Raises:
        CodecError: a message of boxes is malformed. BagError: a bag is damaged.
    """
    kinds = {topic: kind for topic, kind in kinds_of(metrics, three=True) if topic in outputs.topics}
    tracks = next((topic for topic, kind in kinds.items() if kind == TRACKS), None)
    if tracks is None:
        return []
    fused = next((topic for topic, kind in kinds.items() if kind == FUSED), None)
    ahead = tracks.rpartition("/")[0] + "/predictions"
    lives: dict[str, ObjectLife] = {}
    transforms = _MovingTransforms(recording)
    objects = {} if fused is None else _read_fused(outputs, fused)
    for message in outputs.messages([topic for topic in (tracks, ahead) if topic in outputs.topics]):
        named = decode_named_detections3d(message.data)
        if message.topic == tracks:
            transforms.advance(message.log_ns)
            _add(lives, named, _sources(named, objects.get(named.stamp_ns), transforms.buffer))
        else:
            _add_predictions(lives, named)
    _continue(list(lives.values()))
    return sorted(lives.values(), key=lambda life: (life.stamps_ns[0] - life.stamps_ns[-1], life.id))


class _MovingTransforms:
    """The transforms of a recording, read as far as needed."""

    def __init__(self, recording: Bag) -> None:
        self.buffer = TransformBuffer()
        there = recording.of_type(TRANSFORMS)
        static = recording.messages([topic for topic in there if is_static(topic)])
        moving = recording.messages([topic for topic in there if not is_static(topic)])
        self._messages = chain(
            ((m.data, True, 0) for m in static), ((m.data, False, m.log_ns) for m in moving)
        )
        self._held: tuple[bytes, bool, int] | None = None

    def advance(self, log_ns: int) -> None:
        """Read the transforms logged until shortly after a time."""
        while (held := self._held or next(self._messages, None)) is not None:
            self._held = held
            data, static, at_ns = held
            if at_ns > log_ns + _TF_AHEAD_NS:
                return
            self._held = None
            self.buffer.add_message(data, static)  # the nodes report what is wrong on /diagnostics


class _Fused(NamedTuple):
    """The objects of fusion at one moment: (N, 3) positions, m, and the sensors of each."""

    frame_id: str
    places: np.ndarray
    sources: list[str]


def _read_fused(outputs: Bag, topic: str) -> dict[int, _Fused]:
    """Read the fused objects by stamp; fusion may publish after the tracker."""
    found = {}
    for message in outputs.messages([topic]):
        named = decode_named_detections3d(message.data)
        found[named.stamp_ns] = _Fused(named.frame_id, named.detections.xyzlwh_yaw[:, :3].copy(), named.ids)
    return found


def _sources(
    tracks: NamedDetections[Detections3D], fused: _Fused | None, transforms: TransformBuffer
) -> list[str]:
    """Return the sensors of each track, from the fused object at its position."""
    unknown = [""] * len(tracks.ids)
    if fused is None or not len(fused.places) or not len(tracks.detections):
        return unknown
    places = fused.places.astype(np.float64)
    if fused.frame_id != tracks.frame_id:
        try:
            places = transform(transforms.lookup(tracks.frame_id, fused.frame_id, tracks.stamp_ns), places)
        except TransformError:
            return unknown
    between = tracks.detections.xyzlwh_yaw[:, None, :2] - places[None, :, :2]
    away = np.hypot(between[..., 0], between[..., 1])
    nearest = away.argmin(1)
    return [fused.sources[k] if away[row, k] <= SAME_M else "" for row, k in enumerate(nearest.tolist())]


def _add(lives: dict[str, ObjectLife], named: NamedDetections[Detections3D], sources: list[str]) -> None:
    rows = zip(named.ids, named.detections.labels.tolist(), named.detections.xyzlwh_yaw, sources, strict=True)
    for id_, label, box, source in rows:
        life = lives.get(id_)
        if life is None:
            if len(lives) >= _MOST_TRACKS:
                continue
            life = lives[id_] = ObjectLife(id_, named.frame_id)
        if life.stamps_ns and named.stamp_ns <= life.stamps_ns[-1]:
            continue  # the clock was set back, so another object may have this id
        life.names.append(named.classes[label])
        life.sources.append(source)
        life.stamps_ns.append(named.stamp_ns)
        life.places.append((float(box[0]), float(box[1])))


def _add_predictions(lives: dict[str, ObjectLife], named: NamedDetections[Detections3D]) -> None:
    stamps = named.stamps_ns or ()
    rows: dict[str, list[int]] = {}
    for row, id_ in enumerate(named.ids):
        rows.setdefault(id_, []).append(row)
    for id_, chosen in rows.items():
        if id_ in lives and len(stamps) == len(named.ids):
            way = named.detections.xyzlwh_yaw[chosen, :2].astype(np.float64)
            lives[id_].predictions.append((named.stamp_ns, [stamps[row] for row in chosen], way))


def _continue(lives: Sequence[ObjectLife]) -> None:
    """Set `continues` of each track that begins where another one ended shortly before."""
    ended = sorted(lives, key=lambda life: life.stamps_ns[-1])
    ends_ns = np.array([life.stamps_ns[-1] for life in ended])
    taken: set[str] = set()
    for life in sorted(lives, key=lambda life: life.stamps_ns[0]):
        begin_ns = life.stamps_ns[0]
        first, last = np.searchsorted(ends_ns, (begin_ns - CONTINUED_NS, begin_ns))
        near = []
        for other in ended[first:last]:
            place = _extrapolated(other, begin_ns)
            away = float(np.hypot(*(np.array(life.places[0]) - place)))
            if away <= CONTINUED_M and other.id not in taken:
                near.append((away, other.id))
        if near:
            life.continues = min(near)[1]
            taken.add(life.continues)


def _extrapolated(life: ObjectLife, at_ns: int) -> np.ndarray:
    times, places = np.array(life.stamps_ns), np.array(life.places)
    before = int(np.searchsorted(times, times[-1] - SPEED_NS, side="left"))
    seconds = (times[-1] - times[before]) / 1e9
    speed = (places[-1] - places[before]) / seconds if seconds > 0 else np.zeros(2)
    return np.asarray(places[-1] + speed * (at_ns - times[-1]) / 1e9)


def life_sections(lives: Sequence[ObjectLife], start_ns: int) -> list[dict[str, object]]:
    """Return the longest lives for the page, in order of their ids' first appearance.

    Args:
        lives: as of `read_lives`. start_ns: the beginning of the run's time line.
    """
    shown = sorted(lives[:MOST], key=lambda life: (life.stamps_ns[0], life.id))
    anchors = {life.id: f"object-{number}" for number, life in enumerate(shown)}
    return [_section(life, anchors, start_ns) for life in shown]


def _section(life: ObjectLife, anchors: Mapping[str, str], start_ns: int) -> dict[str, object]:
    begin_s, end_s = ((t - start_ns) / 1e9 for t in (life.stamps_ns[0], life.stamps_ns[-1]))
    speeds = life.speeds()
    facts = [
        ("tracked", f"{begin_s:.2f} to {end_s:.2f} s, {len(life.stamps_ns)} messages"),
        ("class", _counted(life.names)),
        ("seen by", _counted([source for source in life.sources if source]) or "not said"),
    ]
    if np.isfinite(speeds).any():
        low, high = float(np.nanmin(speeds)), float(np.nanmax(speeds))
        facts.append(("speed", f"{low:.1f} to {high:.1f} m/s in {life.frame_id}"))
    for ahead_s in HORIZONS_S:
        errors = life.errors_m(ahead_s)
        if len(errors):
            told = f"{np.median(errors):.2f} m off (median of {len(errors)})"
            facts.append((f"predicted {ahead_s:g} s ahead", told))
    return {
        "anchor": anchors[life.id],
        "id": life.id,
        "name": life.name,
        "begin_ms": round(begin_s * 1000),
        "facts": facts,
        "continues": life.continues,
        "continues_anchor": anchors.get(life.continues, ""),
        "charts": list(_charts(life, begin_s, end_s, speeds)),
    }


def _counted(values: Sequence[str]) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count})" for value, count in counts)


def _charts(life: ObjectLife, begin_s: float, end_s: float, speeds: np.ndarray) -> Iterator[svg.Chart]:
    if len(life.stamps_ns) < 2:
        return
    if np.isfinite(speeds).any():
        seconds = begin_s + (np.array(life.stamps_ns) - life.stamps_ns[0]) / 1e9
        x, y = svg.x_scale(begin_s, end_s), svg.y_scale(0, max(float(np.nanmax(speeds)), 0.5) * 1.1)
        mark = svg.line(x(seconds), y(speeds), "series-age")
        yield svg.Chart("Speed", svg.chart(f"Speed of {life.id} over time", x, y, "time, s", "m/s", [mark]))
    places = np.array(life.places)
    chosen = life.predictions
    if len(chosen) > MOST_PREDICTIONS:
        index = np.linspace(0, len(chosen) - 1, MOST_PREDICTIONS).round().astype(int)
        chosen = [chosen[k] for k in index]
    x, y = _equal_scales(np.concatenate([places, *(way for _, _, way in chosen)]))
    times = np.array(life.stamps_ns)
    marks = []
    for made_ns, _, way in chosen:
        here = [np.interp(made_ns, times, places[:, axis]) for axis in (0, 1)]
        whole = np.vstack((here, way))
        marks.append(svg.line(x(whole[:, 0]), y(whole[:, 1]), "series-publish thin"))
    marks.append(svg.line(x(places[:, 0]), y(places[:, 1]), "series-age"))
    drawn = svg.chart(f"Path of {life.id} from above", x, y, f"x in {life.frame_id}, m", "y, m", marks)
    keys = (("series-age", "tracked"), ("series-publish", "predicted"))
    yield svg.Chart("Path from above", drawn, keys if chosen else keys[:1])


def _equal_scales(points: np.ndarray) -> tuple[svg.Scale, svg.Scale]:
    """Return scales on which a metre has the same length in x and y."""
    low, high = points.min(0), points.max(0)
    middle, size = (low + high) / 2, np.maximum(high - low, 1.0)
    per_m = min((svg.RIGHT - svg.LEFT) / size[0], (svg.BOTTOM - svg.TOP) / size[1]) * 0.92
    half = np.array((svg.RIGHT - svg.LEFT, svg.BOTTOM - svg.TOP)) / per_m / 2
    (x0, y0), (x1, y1) = middle - half, middle + half
    return svg.x_scale(float(x0), float(x1)), svg.y_scale(float(y0), float(y1))
