"""Where several workers' numbers meet. Apart from metrics.py, for whoever sets the variable must not import prometheus_client yet."""

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
