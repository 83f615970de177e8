"""A small synthetic drive with ground truth."""

from perception_rt.sim.content import SIM_CLASSES

__all__ = ["SIM_CLASSES"]
