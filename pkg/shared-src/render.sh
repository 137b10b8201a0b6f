#!/bin/sh
# Shared by packages through `extra-sources`; this folder has no build.yml, so it is no package.
echo "multi for $1, rendered on $(uname -m)"
