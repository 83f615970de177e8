"""Read metadata.yaml of a rosbag2 folder, intact or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from perception_rt.replay.storage.values import FormatError
from perception_rt.types.bounded_yaml import load_yaml

NAME = "metadata.yaml"
_POLICIES: dict[str, dict[int | str, str]] = {
    "reliability": {1: "reliable", 2: "best effort", 0: "", "system_default": ""},
    "durability": {1: "transient local", 2: "", 0: "", "volatile": "", "system_default": ""},
}


@dataclass(slots=True)
class Metadata:
    """The expected content of a recording.

    Attributes:
        files: names of the storage files, in order.
        topics: message type and count by topic.
        compression: of files or messages; empty for none.
        offers: QoS of the publishers, in words, by topic.
        faults: unusable fields, with the reason.
    """

    files: list[str] = field(default_factory=list)
    topics: dict[str, tuple[str, int]] = field(default_factory=dict)
    compression: str = ""
    offers: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read_metadata(folder: Path) -> Metadata:
    """Read metadata.yaml of any version.

    Raises:
        FormatError: it is missing or not usable at all.
    """
    try:
        content = load_yaml((folder / NAME).read_text(encoding="utf-8"))
        about = content["rosbag2_bagfile_information"]
    except FileNotFoundError as error:
        raise FormatError(f"{NAME} is missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{NAME} cannot be read: {reason}") from error
    if not isinstance(about, dict):
        raise FormatError(f"{NAME}: rosbag2_bagfile_information={about!r} is not a mapping")
    metadata = Metadata()
    metadata.files = [PurePath(name).name for name in _list(about, "relative_file_paths", str, metadata)]
    for entry in _list(about, "topics_with_message_count", dict, metadata):
        try:
            topic, count = entry["topic_metadata"], entry["message_count"]
            name, kind = topic["name"], topic["type"]
        except (KeyError, TypeError) as error:
            metadata.faults.append(f"topics_with_message_count: {error} is missing")
            continue
        if not (isinstance(name, str) and isinstance(kind, str) and type(count) is int and count >= 0):
            metadata.faults.append(f"topics_with_message_count: {name!r}, {kind!r}, {count!r} is not valid")
            continue
        metadata.offers[name] = _offered(topic.get("offered_qos_profiles"))
        metadata.topics[name] = (kind, metadata.topics.get(name, (kind, 0))[1] + count)
    if about.get("compression_mode"):
        metadata.compression = str(about.get("compression_format") or "")
    metadata.faults += _contradictions(about, metadata)
    return metadata


def _offered(profiles: object) -> str:
    """Return reliability and durability of the publishers; Humble writes YAML in a text, and numbers."""
    if isinstance(profiles, str):
        try:
            profiles = load_yaml(profiles)
        except (yaml.YAMLError, ValueError):
            return ""
    words = []
    for profile in profiles if isinstance(profiles, list) else []:
        for key, names in _POLICIES.items():
            value = profile.get(key) if isinstance(profile, dict) else None
            word = names.get(value, value) if isinstance(value, int | str) else None
            words += [str(word).replace("_", " ")] if word else []
    return ", ".join(dict.fromkeys(words))


def _list(about: dict, key: str, kind: type, metadata: Metadata) -> list[Any]:
    found = about.get(key)
    if not isinstance(found, list):
        metadata.faults.append(f"{key}={found!r} is not a list")
        return []
    metadata.faults += [f"{key}: {item!r} is not valid" for item in found if not isinstance(item, kind)]
    return [item for item in found if isinstance(item, kind)]


def _contradictions(about: dict, metadata: Metadata) -> Iterator[str]:
    total, said = sum(count for _, count in metadata.topics.values()), about.get("message_count")
    if said != total:
        yield f"message_count={said!r}, but the counts of the topics add up to {total}"
