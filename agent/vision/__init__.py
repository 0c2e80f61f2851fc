"""The vision process: sources, tasks, gallery. Knows nothing of MQTT."""

import os

# NumPy's matrices are small here, and the threads that OpenBLAS keeps for large ones spin on cores that the engines need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
