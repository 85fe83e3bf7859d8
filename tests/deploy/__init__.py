"""The files of `infra/deploy/`, checked without containers and without a cluster, in `make check`."""
