#!/bin/bash
# Source the distribution and the environment, then run the command.
set -e
# shellcheck disable=SC1090
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source "${VIRTUAL_ENV}/bin/activate"
export AMENT_PREFIX_PATH="${VIRTUAL_ENV}:${AMENT_PREFIX_PATH}"
exec "$@"
