"""Show a replay in Rerun: in a local or remote viewer, or in a file."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import sysconfig
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from perception_rt.replay.live.address import parse_address
from perception_rt.replay.live.drawing import Drawing, LiveDrawing
from perception_rt.replay.message_types import is_static
from perception_rt.types import CodecError, ConfigError

TIMELINE = "bag_time"
PORT = 9876
_NOTES, _AGES = "notes", "age_ms"
_CONNECT_S, _FLUSH_S = 3.0, 10.0
_DARK = (16, 18, 24)
_EYE, _LOOK_AT = (-14.0, 0.0, 9.0), (12.0, 0.0, 0.0)  # m: from behind and above the vehicle


class Rerun:
    """Draw messages of known types; views are added for new content.

    Args:
        target: ``""`` opens a viewer, ``FILE.rrd`` writes, ``HOST:PORT`` sends.
    """

    def __init__(self, target: str) -> None:
        self._stream = rr.RecordingStream("perception_rt")
        # The time of drawing differs each time.
        rr.set_log_time_enabled(False, self._stream)
        self._drawing = Drawing()
        self._scene = ""  # the frame of the 3D view
        self._pictures: dict[str, str] = {}  # the plane of pixels, by topic of what is drawn on it
        self._curves: set[str] = set()
        if target.endswith(".rrd"):
            self.where = self._save(Path(target))
        elif target:
            self.where = self._connect(*parse_address(target, PORT))
        else:
            self.where = self._spawn()
        self._arrange()

    def _save(self, path: Path) -> str:
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent}: no such folder")
        try:
            path.touch()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        self._stream.save(path)
        return f"Rerun: {path}, open it with: rerun {path}"

    def _connect(self, host: str, port: int) -> str:
        try:  # the SDK itself would wait for a viewer for ever
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError as error:
            raise ConfigError(f"no viewer at {host}:{port} ({error}); start one there: rerun") from error
        bracketed = f"[{host}]" if ":" in host else host
        self._stream.connect_grpc(f"rerun+http://{bracketed}:{port}/proxy")
        return f"Rerun: the viewer at {host}:{port}"

    def _spawn(self) -> str:
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise ConfigError("no display here; use rerun:FILE.rrd, or rerun:HOST:PORT where a viewer runs")
        # The program is beside this Python, which need not be in PATH.
        program = shutil.which("rerun", path=sysconfig.get_path("scripts")) or "rerun"
        try:
            rr.spawn(port=PORT, executable_path=program, recording=self._stream)
        except RuntimeError as error:
            raise ConfigError(f"the viewer does not start: {str(error).splitlines()[0]}") from error
        return "Rerun: the viewer's window"

    def begin(self, topics: Mapping[str, str], timeout_s: float) -> bool:
        """Return True at once, as viewers and files keep all messages."""
        return True

    def message(self, topic: str, message_type: str, log_ns: int, data: bytes) -> None:
        """Draw a message; log a note for a malformed one."""
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(log_ns, "ns"))
        try:
            drawn = self._drawing.draw(topic, message_type, data)
        except CodecError as error:
            self._log(_NOTES, [rr.TextLog(f"{topic}: {error}", level=rr.TextLogLevel.WARN)])
            return
        if drawn is None:
            return
        self._follow(topic, drawn)
        place = [rr.CoordinateFrame(drawn.frame)] if drawn.frame else []
        for name, parts in drawn.parts.items():
            self._log(entity(topic, name), [*parts, *place], static=is_static(topic))

    def ages(self, topic: str, log_ns: int, age_ms: float) -> None:
        """Add a point to the age curve of the topic."""
        path = entity(_AGES, topic)
        if topic not in self._curves:
            self._curves.add(topic)
            self._log(path, [rr.SeriesLines(names=topic)], static=True)
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(log_ns, "ns"))
        self._log(path, [rr.Scalars(age_ms)])

    def close(self) -> None:
        """Wait until all is written, or sent to a viewer that still takes it."""
        try:
            self._stream.flush(timeout_sec=_FLUSH_S)
        except RuntimeError:  # the SDK has said so: the viewer's window was closed, or it hangs
            # Ending the stream, or the program, would wait for it again, without a timeout.
            rr.unregister_shutdown()
            threading.Thread(target=_keep, args=(self._stream,), daemon=True).start()
        else:
            self._stream.disconnect()

    def _log(self, path: str, parts: list, static: bool = False) -> None:
        self._stream.log(path, *parts, static=static, strict=True)

    def _follow(self, topic: str, drawn: LiveDrawing) -> None:
        """Add views for new content."""
        if drawn.picture and self._pictures.get(topic) != drawn.frame:
            self._pictures[topic] = drawn.frame
        elif drawn.frame and not drawn.picture and not self._scene:
            self._scene = drawn.frame
        else:
            return
        self._arrange()

    def _arrange(self) -> None:
        ages = rrb.TimeSeriesView(name="age, ms", origin=entity(_AGES))
        notes = rrb.TextLogView(name="notes", origin=entity(_NOTES))
        cameras = [self._camera_view(frame) for frame in dict.fromkeys(self._pictures.values())]
        space = self._space_view()
        above = rrb.Horizontal(rrb.Vertical(*cameras), space) if cameras else space
        self._stream.send_blueprint(
            rrb.Blueprint(
                rrb.Vertical(above, rrb.Horizontal(ages, notes, column_shares=[2, 1]), row_shares=[3, 1]),
                rrb.TimePanel(timeline=TIMELINE, state="collapsed"),
                rrb.BlueprintPanel(state="collapsed"),
                rrb.SelectionPanel(state="collapsed"),
            )
        )

    def _camera_view(self, frame: str) -> rrb.Spatial2DView:
        return rrb.Spatial2DView(
            name=frame.rpartition("/")[0],
            contents=[entity(topic) for topic, of in self._pictures.items() if of == frame],
            spatial_information=rrb.SpatialInformation(frame),
        )

    def _space_view(self) -> rrb.Spatial3DView:
        flat = [f"- {entity(path)}/**" for path in (*self._pictures, _NOTES, _AGES)]
        axes = rr.components.ViewCoordinates.FLU  # REP 103, as all frames but the optical ones
        return rrb.Spatial3DView(
            name="space",
            contents=["+ /**", *flat],
            background=_DARK,
            eye_controls=rrb.EyeControls3D(position=_EYE, look_target=_LOOK_AT, eye_up=(0, 0, 1)),
            spatial_information=rrb.SpatialInformation(self._scene, axes=axes) if self._scene else None,
        )


def _keep(stream: rr.RecordingStream) -> None:
    """Keep a reference to the stream for the life of the process."""
    threading.Event().wait()


def entity(topic: str, *more: str) -> str:
    """The path of a topic, and of a part of it: ``/tf``, ``base/link`` gives ``/tf/base\\/link``."""
    parts = [part for part in topic.split("/") if part]
    for name in more:
        parts += [part for part in name.split("/") if part]
    return "/" + rr.new_entity_path(parts)
