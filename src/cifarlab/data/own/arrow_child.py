"""Read Parquet and Arrow files of images, in a child process; see `limited`. Nothing of the package is imported."""

import json
import re
from typing import Any

ROWS = 256  # read at once


def read(
    content: bytes, is_parquet: bool, label_columns: list[str], max_bytes: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Return the labels, the names of their classes, and the images of at most `max_bytes` as bytes.

    Without one column of images and one of labels, only the types of the columns are returned.
    """
    import pyarrow
    from pyarrow import ipc, parquet

    if is_parquet:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        schema = file.schema_arrow
    elif content.startswith(b"ARROW1"):
        file = ipc.open_file(content)
        schema, stream = file.schema, map(file.get_batch, range(file.num_record_batches))
    else:
        schema = (stream := ipc.open_stream(content)).schema
    types = {field.name: str(field.type) for field in schema}
    images = [name for name, kind in types.items() if re.match("(struct<bytes: )?(large_)?binary", kind)]
    labels = [name for name in label_columns if name in types]
    if len(images) != 1 or not labels:
        return {"types": types}, []
    columns = [images[0], labels[0]]
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = list(map(str, features[labels[0]]["names"]))
    except (KeyError, ValueError, TypeError):
        names = []
    values, parts = list[Any](), list[bytes]()
    for batch in file.iter_batches(ROWS, columns=columns) if is_parquet else stream:
        max_bytes -= batch.nbytes
        if max_bytes < 0:
            raise MemoryError
        values += batch[labels[0]].to_pylist()
        parts += [image["bytes"] if isinstance(image, dict) else image for image in batch[images[0]].to_pylist()]
    return {"labels": values, "names": names}, [part or b"" for part in parts]
