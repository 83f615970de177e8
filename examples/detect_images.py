"""Run images through a bundle: ``python examples/detect_images.py sim_camera photo.jpg ...``."""

import sys

import cv2

import perception_rt


def main(bundle_name: str, *paths: str) -> None:
    """Print the detections of each image."""
    bundle = perception_rt.open_bundle(bundle_name)
    for path in paths:
        image = cv2.imread(path)
        if image is None:
            sys.exit(f"{path}: not an image")
        detections = perception_rt.detect2d(bundle, image, bgr=True)
        print(f"{path}: {len(detections)} objects")
        for xyxy, score, label in zip(detections.xyxy, detections.scores, detections.labels, strict=True):
            print(f"  {bundle.manifest.classes[label]} {score:.2f} at {xyxy.round().tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
