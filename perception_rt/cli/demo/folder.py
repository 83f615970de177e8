"""The folder of a demo's results."""

from __future__ import annotations

from pathlib import Path

from perception_rt.types import ConfigError

_SINGLE = ("summary.json", "vehicle_state.png", "graph.yaml")


def kept_frames(folder: Path) -> Path:
    """Return the folder for the frames of a live source."""
    return folder / "live_frames"


def clear_results(folder: Path) -> None:
    """Create the folder, or remove the files of an earlier demo; other files stay.

    Films and their pictures, `<film>.mp4` and `<film>_<four digits>.png`, are removed if there is a
    summary.json of a demo.

    Raises:
        ConfigError: a folder that cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "summary.json").exists():
            for film in folder.glob("*.mp4"):
                for picture in folder.glob(f"{film.stem}_[0-9][0-9][0-9][0-9].png"):
                    picture.unlink()
                film.unlink()
        if kept_frames(folder).is_dir():
            for frame in kept_frames(folder).glob("*.jpg"):
                frame.unlink()
            kept_frames(folder).rmdir()
        for name in _SINGLE:
            (folder / name).unlink(missing_ok=True)
        # This file identifies the films of an interrupted run, which has no summary.
        (folder / "summary.json").write_text("{}\n")
    except OSError as error:
        raise ConfigError(f"--out={folder}: cannot be written ({error.strerror or error})") from error
