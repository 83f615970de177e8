"""What detector nodes share: the bundle is swapped while they run."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

from rclpy.task import Future
from std_srvs.srv import Trigger

from perception_rt.component.component import InferenceWorker
from perception_rt.component.detector import DetectorComponent
from perception_rt.node.host import ComponentNode


class DetectorNode(ComponentNode):
    """The node of a `DetectorComponent`."""

    component: DetectorComponent | None

    def __init__(self, node_name: str = "", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._swapping = threading.Lock()
        self.create_service(Trigger, "~/swap_bundle", self._on_swap)

    async def _on_swap(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load and verify the bundle of `bundle` beside the running one; on failure that one stays."""
        if self.component is None:
            response.message = "the node is not configured: `bundle` will be loaded when it is"
        elif not self._swapping.acquire(blocking=False):
            response.message = "another swap is under way: call again when it has ended"
        else:
            done = Future(executor=self.executor)
            swap = (self.component, self.component.worker, done)
            threading.Thread(target=self._swap, args=swap, name="swap", daemon=True).start()
            response.success, response.message = await done
        return response

    def _swap(self, detector: DetectorComponent, worker: InferenceWorker, done: Future) -> None:
        name = detector.values["bundle"]
        try:
            runtime = detector.open()
            worker.call(lambda: detector.use(runtime)).result()
            outcome = (True, f"{name} {runtime.sha256[:12]} runs")
        except CancelledError:
            outcome = (
                False,
                "the node was cleaned up meanwhile: `bundle` will be loaded when it is configured",
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the old bundle goes on and the caller is told
            self.get_logger().error(f"swap to {name} failed, the running bundle stays: {error}")
            outcome = (False, f"{error} (the running bundle stays)")
        finally:
            self._swapping.release()
        done.set_result(outcome)
